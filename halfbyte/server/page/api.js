"use strict";
// The server, over its OpenAI routes. The key is kept for this tab alone (sessionStorage) and sent as a header.

const Api = (() => {
  const KEY = "halfbyte.key";

  class Refusal extends Error {
    constructor(status, message) {
      super(message);
      this.status = status;
    }
  }

  const getKey = () => sessionStorage.getItem(KEY) ?? "";

  function setKey(key) {
    if (key) sessionStorage.setItem(KEY, key);
    else sessionStorage.removeItem(KEY);
  }

  async function request(path, options = {}) {
    const headers = { Accept: "application/json", ...options.headers };
    if (getKey()) headers.Authorization = `Bearer ${getKey()}`;
    let answer;
    try {
      answer = await fetch(path, { ...options, headers, credentials: "omit" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refusal(0, "The server cannot be reached. Is it still running?");
    }
    if (!answer.ok) throw await refusal(answer);
    return answer;
  }

  async function refusal(answer) {
    let message = `The server answered ${answer.status} ${answer.statusText}`.trim();
    try {
      message = messageOf(await answer.json()) ?? message;
    } catch {
      // no JSON: the status says what there is to say
    }
    const wait = answer.headers.get("Retry-After");
    if (answer.status === 429 && wait) message += ` (try again in ${wait} s)`;
    return new Refusal(answer.status, message);
  }

  function messageOf(body) {
    const found = body?.error?.message ?? body?.error ?? body?.detail;
    return typeof found === "string" ? found : null;
  }

  const getJson = async (path) => (await request(path)).json();

  /** Server-sent events of a response: each event's data. */
  async function* events(answer) {
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let held = "";
    let data = [];
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (held + value).split(/\r\n|\n|\r(?!$)/);
      held = lines.pop();
      for (const line of lines) {
        if (line === "" && data.length > 0) {
          yield data.join("\n");
          data = [];
        } else if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
      }
    }
  }

  /** The chunks of a streamed chat answer. Throws Refusal for what the server says is wrong, also midway. */
  async function* chat(body, signal) {
    const answer = await request("/v1/chat/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json", Accept: "text/event-stream" },
      body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true, continuous_usage_stats: true } }),
      signal,
    });
    let ended = false;
    for await (const data of events(answer)) {
      ended = data === "[DONE]";
      if (ended) break;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Refusal(0, messageOf(chunk) ?? "The server could not go on");
      yield chunk;
    }
    if (!ended) throw new Refusal(0, "The connection ended before the answer did");
  }

  return { Refusal, getKey, setKey, getJson, chat };
})();
