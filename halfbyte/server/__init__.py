"""HTTP: the faces of OpenAI, of the card's vLLM server and of TGI, before engines in processes of their own."""
