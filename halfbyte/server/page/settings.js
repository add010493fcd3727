"use strict";
// The settings panel: what it holds, what a request gets of it. Kept in this browser (localStorage); no secret is here.

const Settings = (() => {
  const STORED = "halfbyte.settings";
  const form = document.getElementById("settings-form");
  const numbers = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens", "seed"];
  const listeners = [];

  const field = (name) => form.elements.namedItem(name);
  const fields = () => [...form.elements].filter((e) => e.name);
  const valueOf = (input) => (input.type === "checkbox" ? input.checked : input.value);

  function put(input, value) {
    if (input.type === "checkbox") input.checked = value === true;
    else input.value = value;
  }

  function read() {
    try {
      return JSON.parse(localStorage.getItem(STORED) ?? "{}") ?? {};
    } catch {
      return {};
    }
  }

  function changed() {
    localStorage.setItem(STORED, JSON.stringify(Object.fromEntries(fields().map((f) => [f.name, valueOf(f)]))));
    show();
  }

  function show() {
    for (const output of form.querySelectorAll("output")) output.value = field(output.htmlFor.toString()).value;
    document.documentElement.dataset.theme = field("theme").value;
    listeners.forEach((listener) => listener());
  }

  function restore() {
    const kept = read();
    for (const input of fields()) if (input.name in kept) put(input, kept[input.name]);
    show();
  }

  function reset() {
    const theme = field("theme").value;
    form.reset();
    put(field("theme"), theme);
    changed();
  }

  /** Choices of a select, of which the kept one stays chosen if it is still there. */
  function choices(name, options) {
    const select = field(name);
    const chosen = read()[name] ?? select.value;
    select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
    select.value = options.some(([value]) => value === chosen) ? chosen : (options[0]?.[0] ?? "");
    show();
  }

  /** The fields of a chat request. What is left empty is the server's to choose. */
  function forRequest() {
    const found = {};
    for (const name of numbers) {
      const text = field(name).value.trim();
      if (text !== "" && Number.isFinite(Number(text))) found[name] = Number(text);
    }
    const stop = field("stop").value.split("\n").filter((line) => line !== "");
    if (stop.length > 0) found.stop = stop.map((line) => line.replaceAll("\\n", "\n"));
    if (field("chat_template").value) found.chat_template = field("chat_template").value;
    if (field("model").value) found.model = field("model").value;
    return found;
  }

  form.addEventListener("input", changed);
  form.addEventListener("submit", (event) => event.preventDefault());

  return {
    restore,
    reset,
    choices,
    forRequest,
    onChange: (listener) => listeners.push(listener),
    get: (name) => valueOf(field(name)),
    set: (name, value) => {
      put(field(name), value);
      changed();
    },
    setPlaceholder: (name, text) => {
      field(name).placeholder = text;
    },
    /** Whether every number is one that its field allows; if not, the browser says which. */
    check: () => form.reportValidity(),
    isValid: () => form.checkValidity(),
  };
})();
