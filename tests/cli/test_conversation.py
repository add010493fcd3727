"""A conversation's history and how it is trimmed."""

from halfbyte.cli.conversation import Conversation


def words(messages):
    return sum(len(m["content"].split()) for m in messages)


def talk(system=None):
    conversation = Conversation(system)
    for n in range(3):
        conversation.ask(f"question number {n}")
        conversation.answer(f"answer number {n}")
    conversation.ask("last question")
    return conversation


def test_messages_begin_with_the_system_text():
    assert Conversation("be brief").messages() == [{"role": "system", "content": "be brief"}]
    assert Conversation().messages() == []


def test_the_oldest_exchanges_go_first_and_the_system_text_stays():
    conversation = talk("be brief")
    assert conversation.trim(words, 10) == 2
    said = [m["content"] for m in conversation.messages()]
    assert said == ["be brief", "question number 2", "answer number 2", "last question"]


def test_nothing_goes_while_there_is_room():
    assert talk().trim(words, 20) == 0


def test_the_last_question_always_stays():
    conversation = talk()
    assert conversation.trim(words, 0) == 3
    assert conversation.turns == [{"role": "user", "content": "last question"}]


def test_a_question_can_be_taken_back():
    conversation = talk()
    conversation.take_back()
    assert conversation.turns[-1]["role"] == "assistant"
    conversation.reset()
    assert conversation.turns == []
