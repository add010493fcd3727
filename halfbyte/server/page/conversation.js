"use strict";
// What has been said: messages of the user and the assistant in turn. A reload of the tab keeps it, a new tab does not.

const Conversation = (() => {
  const STORED = "halfbyte.conversation";

  function load() {
    try {
      const found = JSON.parse(sessionStorage.getItem(STORED) ?? "[]");
      return Array.isArray(found) ? found.filter((m) => m && typeof m.content === "string" && m.role) : [];
    } catch {
      return [];
    }
  }

  let messages = load();

  function save() {
    try {
      sessionStorage.setItem(STORED, JSON.stringify(messages));
    } catch {
      // the browser's store is full: the conversation lives on in memory
    }
  }

  /** Message: {role, content, note, error}. note: its tokens and speed; error: why it is not whole. */
  function add(role, content) {
    const message = { role, content, note: "", error: "" };
    messages.push(message);
    save();
    return message;
  }

  /** Forget the message at this place and all after it. */
  function cut(index) {
    messages = messages.slice(0, index);
    save();
  }

  /** As a chat request has them. An answer of which nothing came is left out. */
  function toSend(system) {
    const said = messages.filter((m) => m.content.trim() !== "").map(({ role, content }) => ({ role, content }));
    return system.trim() ? [{ role: "system", content: system }, ...said] : said;
  }

  return { all: () => messages, add, cut, save, toSend };
})();
