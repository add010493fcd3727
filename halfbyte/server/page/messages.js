"use strict";
// The list of messages as it is seen: one item each, with its buttons; a message of the user can be edited in place.

const Messages = (() => {
  const list = document.getElementById("messages");
  const scroll = document.getElementById("scroll");
  const latest = document.getElementById("latest");
  const NEAR = 80; // pixels from the end within which the view follows what is written
  let follow = true;
  let handlers = {};

  function element(tag, className, text) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  }

  function icon(name) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
    use.setAttribute("href", `#icon-${name}`);
    svg.setAttribute("aria-hidden", "true");
    svg.append(use);
    return svg;
  }

  function button(name, text, action) {
    const made = element("button", "quiet small");
    made.type = "button";
    made.append(icon(name), element("span", "", text));
    made.addEventListener("click", action);
    return made;
  }

  const indexOf = (item) => [...list.children].indexOf(item);

  function add(message) {
    const item = element("li", `message ${message.role}`);
    item.append(
      element("h3", "unseen", message.role === "user" ? "You" : "Assistant"),
      element("div", "text"),
      element("p", "problem"),
      actions(item, message),
    );
    list.append(item);
    fill(item, message);
    return item;
  }

  function actions(item, message) {
    const row = element("div", "actions");
    const copying = button("copy", "Copy", () => copy(message.content, copying));
    row.append(copying);
    if (message.role === "user") row.append(button("edit", "Edit", () => edit(item, message)));
    else row.append(button("again", "Regenerate", () => handlers.regenerate(indexOf(item))), element("span", "note muted"));
    return row;
  }

  /** Show what a message holds now. */
  function fill(item, message) {
    const text = item.querySelector(".text");
    if (message.role === "assistant" && Settings.get("markdown")) Markdown.render(text, message.content);
    else Markdown.renderPlain(text, message.content);
    const note = item.querySelector(".note");
    if (note) note.textContent = message.note;
    item.querySelector(".problem").textContent = message.error;
    if (follow) toEnd();
  }

  function setBusy(item, busy) {
    item.classList.toggle("busy", busy);
    item.setAttribute("aria-busy", String(busy));
  }

  function edit(item, message) {
    if (item.querySelector(".editor")) return;
    const editor = element("form", "editor");
    const area = element("textarea", "");
    area.value = message.content;
    area.setAttribute("aria-label", "Edit your message");
    const send = element("button", "strong", "Send");
    const cancel = element("button", "", "Cancel");
    cancel.type = "button";
    const buttons = element("div", "buttons");
    buttons.append(send, cancel);
    editor.append(area, buttons);
    const close = () => {
      editor.remove();
      item.classList.remove("editing");
      item.querySelector(".actions button:last-child").focus();
    };
    cancel.addEventListener("click", close);
    editor.addEventListener("submit", (event) => {
      event.preventDefault();
      if (area.value.trim() !== "") handlers.resend(indexOf(item), area.value);
    });
    editor.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        close();
      } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing && event.target === area) {
        event.preventDefault();
        editor.requestSubmit();
      }
    });
    item.classList.add("editing");
    item.append(editor);
    grow(area);
    area.addEventListener("input", () => grow(area));
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
  }

  /** As high as its text, within what the style sheet allows. */
  function grow(area) {
    area.style.height = "auto";
    area.style.height = `${area.scrollHeight + 2}px`;
  }

  /** To the clipboard; where a page has none (plain http from another machine) by the older way. */
  async function copy(text, from) {
    let done = true;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = element("textarea", "unseen");
      area.value = text;
      document.body.append(area);
      area.select();
      done = document.execCommand("copy");
      area.remove();
      from.focus();
    }
    const label = from.querySelector("span") ?? from;
    label.textContent = done ? "Copied" : "Not copied";
    handlers.say(label.textContent);
    setTimeout(() => (label.textContent = "Copy"), 1500);
  }

  function toEnd() {
    follow = true;
    scroll.scrollTop = scroll.scrollHeight;
  }

  /** Show these messages and no others. */
  function show(messages) {
    list.replaceChildren();
    messages.forEach(add);
  }

  function cut(index) {
    while (list.children.length > index) list.lastChild.remove();
  }

  function editLast() {
    const own = list.querySelectorAll(".message.user");
    own[own.length - 1]?.querySelector(".actions button:last-child").click();
  }

  scroll.addEventListener("scroll", () => {
    const left = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight;
    follow = left < NEAR;
    latest.hidden = follow;
  });
  latest.addEventListener("click", toEnd);
  list.addEventListener("click", (event) => {
    const copying = event.target.closest("[data-copy-code]");
    if (copying) copy(copying.closest(".code").querySelector("code").textContent, copying);
  });

  return { add, fill, setBusy, show, cut, editLast, toEnd, grow, handle: (given) => (handlers = given) };
})();
