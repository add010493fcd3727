"""The chat page in a real browser: Chromium through Playwright, against the real model."""

from __future__ import annotations

import os
import shutil

import pytest

CHROMIUM = os.environ.get("HALFBYTE_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
if CHROMIUM is None:
    pytest.skip("there is no Chromium; set HALFBYTE_CHROMIUM=/path/to/it", allow_module_level=True)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, server):
    """Opens the page; at the end nothing may have failed in it, and nothing may have gone to another host."""
    contexts, problems, asked = [], [], []

    def open_page(**context):
        contexts.append(browser.new_context(**context))
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(server.url)
        playwright.expect(page.locator("#model-name")).to_have_text("smol")
        page.get_by_role("button", name="Settings", exact=True).click()
        page.get_by_label("Temperature").fill("0")
        page.get_by_label("Longest answer").fill("40")
        page.get_by_role("button", name="Close settings").click()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not problems
    assert all(url.startswith((server.url, "data:")) for url in asked)


def ask(page, text):
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")


def last_answer(page):
    """The last answer, once it is finished."""
    done = page.locator(".message.assistant:not(.busy)").last
    playwright.expect(done.locator(".note")).not_to_be_empty(timeout=30_000)
    return done


def test_a_question_is_answered_and_measured(open_page):
    page = open_page()
    ask(page, "What is the capital of France?")
    answer = last_answer(page)
    assert "Paris" in answer.inner_text()
    assert "tokens" in answer.locator(".note").inner_text()


def test_an_answer_can_be_stopped_with_a_key(open_page, server):
    page = open_page()
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_label("Longest answer").fill("1500")
    page.get_by_role("button", name="Close settings").click()
    ask(page, "Write a very long story about a lighthouse.")
    playwright.expect(page.locator(".message.assistant.busy .text")).not_to_be_empty(timeout=30_000)
    page.get_by_label("Message", exact=True).focus()
    page.keyboard.press("Escape")
    last_answer(page)
    server.wait_until_idle()
    assert page.get_by_role("button", name="Send", exact=True).is_visible()


def test_a_question_can_be_edited_and_an_answer_made_again(open_page):
    page = open_page()
    ask(page, "What is the capital of France?")
    first = last_answer(page).locator(".text").inner_text()
    page.get_by_role("button", name="Regenerate").click()
    assert last_answer(page).locator(".text").inner_text() == first
    page.get_by_label("Message", exact=True).focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Control+A")
    page.keyboard.type("What is the capital of Italy?")
    page.keyboard.press("Enter")
    playwright.expect(page.locator(".message.assistant:not(.busy)").last).to_contain_text("Rome", timeout=30_000)
    assert page.locator(".message.user").count() == 1


def test_it_fits_on_a_phone(open_page):
    page = open_page(viewport={"width": 360, "height": 740}, has_touch=True)
    ask(page, "What is the capital of France?")
    last_answer(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_settings_reach_the_request(open_page):
    page = open_page()
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_label("Prompt template").select_option("airoboros-2.1")
    page.get_by_label("System prompt").fill("You know capitals.")
    for label, value in (("Top p", "0.9"), ("Top k", "7"), ("Min p", "0.05"), ("Repetition penalty", "1.2"),
                         ("Seed", "5"), ("Longest answer", "9"), ("Stop at", "Zebra\n\\n\\n")):  # fmt: skip
        page.get_by_label(label, exact=True).fill(value)
    page.get_by_role("button", name="Close settings").click()
    with page.expect_request("**/v1/chat/completions") as sent:
        ask(page, "What is the capital of France?")
    last_answer(page)
    body = sent.value.post_data_json
    wanted = {
        "model": "smol", "chat_template": "airoboros-2.1", "temperature": 0, "top_p": 0.9, "top_k": 7, "min_p": 0.05,
        "repetition_penalty": 1.2, "seed": 5, "max_tokens": 9, "stop": ["Zebra", "\n\n"], "stream": True,
    }  # fmt: skip
    assert {name: body.get(name) for name in wanted} == wanted
    assert body["messages"] == [
        {"role": "system", "content": "You know capitals."},
        {"role": "user", "content": "What is the capital of France?"},
    ]
    page.reload()  # they are kept
    page.get_by_role("button", name="Settings", exact=True).click()
    assert page.get_by_label("Top k").input_value() == "7"
    page.get_by_role("button", name="Reset settings").click()
    assert page.get_by_label("Top k").input_value() == ""


def test_colours_follow_the_system_unless_one_is_chosen(open_page):
    page = open_page(color_scheme="dark")

    def lightness():
        rgb = page.evaluate("getComputedStyle(document.body).backgroundColor").removeprefix("rgb(").rstrip(")")
        return sum(float(part) for part in rgb.split(",")[:3]) / 3

    assert lightness() < 80
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_label("Colours").select_option("light")
    assert lightness() > 200
    page.get_by_label("Colours").select_option("system")
    page.emulate_media(color_scheme="light")
    assert lightness() > 200


def test_everything_can_be_reached_by_keyboard_and_has_a_name(open_page):
    page = open_page()
    ask(page, "What is the capital of France?")
    last_answer(page)
    names = set()
    page.locator("body").focus()
    for _ in range(40):
        page.keyboard.press("Tab")
        names.add(
            page.evaluate(
                "(e => e.getAttribute('aria-label') || e.innerText || e.id || e.tagName)(document.activeElement)"
            )
        )
    assert {"New conversation", "Settings", "prompt"} <= names
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button')].filter(b => !b.getAttribute('aria-label') && !b.innerText.trim()"
        " && b.offsetParent).length"
    )
    assert unnamed == 0
    assert page.locator("[aria-live]").count() >= 1, "a screen reader is told of the answer"
    page.get_by_role("button", name="Settings", exact=True).click()
    page.keyboard.press("Escape")
    playwright.expect(page.locator("#settings")).to_be_hidden()


def test_a_server_with_a_key_asks_for_it(browser, tmp_path):
    from server_thread import ServerThread
    from tiny_repository import write_repository

    from halfbyte.server.auth import Key
    from halfbyte.server.models import Models
    from halfbyte.server.settings import ServerSettings

    models = Models()
    models.add("tiny", str(write_repository(tmp_path / "tiny")))
    with ServerThread(ServerSettings(port=0, keys=(Key("sk-page", "page"),)), models) as running:
        page = browser.new_page()
        page.goto(running.url)
        field = page.locator("input[type=password]").first
        field.fill("sk-wrong")
        page.keyboard.press("Enter")
        playwright.expect(page.locator("#model-name")).not_to_have_text("tiny")
        page.locator("input[type=password]").first.fill("sk-page")
        page.keyboard.press("Enter")
        playwright.expect(page.locator("#model-name")).to_have_text("tiny", timeout=10_000)
        assert "sk-page" not in page.url
        page.close()
