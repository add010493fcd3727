"use strict";
// The page: ties the parts together.

(() => {
  const byId = (id) => document.getElementById(id);
  const prompt = byId("prompt");
  const settings = byId("settings");
  const narrow = matchMedia("(max-width: 56rem)");
  let templates = [];

  /** Have it read out by a screen reader. */
  function say(text) {
    byId("status").textContent = text;
  }

  function showState() {
    const busy = Answer.isBusy();
    const hadFocus = [byId("send"), byId("stop")].includes(document.activeElement);
    byId("send").hidden = busy;
    byId("stop").hidden = !busy;
    if (hadFocus) prompt.focus();
    byId("send").disabled = prompt.value.trim() === "";
    byId("welcome").hidden = Conversation.all().length > 0;
    byId("main").classList.toggle("empty", Conversation.all().length === 0);
  }

  async function answer() {
    if (Answer.isBusy()) return;
    const message = Conversation.add("assistant", "");
    const item = Messages.add(message);
    Messages.toEnd();
    const writing = Answer.write(message, item);
    showState();
    say("The answer is being written");
    try {
      const whole = await writing;
      say(message.error ? `${message.content} ${message.error}` : `${message.content}${whole ? "" : " (stopped)"}`);
    } catch {
      askForKey("The server does not know this key.");
    }
    if (message.content === "" && message.error === "") message.error = "Stopped before anything was answered.";
    Messages.fill(item, message);
    showState();
  }

  function send(text) {
    if (Answer.isBusy() || text.trim() === "" || !checkSettings()) return;
    dropUnanswered();
    Messages.add(Conversation.add("user", text));
    answer();
  }

  /** A question that got no answer would make two turns of the user in a row. */
  function dropUnanswered() {
    const unanswered = (message) => message && (message.role === "user" || message.content.trim() === "");
    for (let all = Conversation.all(); unanswered(all[all.length - 1]); all = Conversation.all()) forget(all.length - 1);
  }

  function checkSettings() {
    if (Settings.isValid()) return true;
    openSettings();
    Settings.check();
    return false;
  }

  function forget(index) {
    Conversation.cut(index);
    Messages.cut(index);
  }

  function openSettings() {
    settings.hidden = false;
    byId("open-settings").setAttribute("aria-expanded", "true");
    shield();
    byId("settings-title").focus();
  }

  function closeSettings() {
    settings.hidden = true;
    byId("open-settings").setAttribute("aria-expanded", "false");
    shield();
    byId("open-settings").focus();
  }

  /** On a narrow screen the panel covers the rest, which then cannot be reached. */
  function shield() {
    const covered = narrow.matches && !settings.hidden;
    byId("main").inert = covered;
    byId("top").inert = covered;
  }

  function askForKey(problem = "") {
    byId("key").value = "";
    byId("key-problem").textContent = problem;
    if (!byId("key-dialog").open) byId("key-dialog").showModal();
    byId("key").focus();
  }

  async function load() {
    try {
      const [models, known] = await Promise.all([Api.getJson("/v1/models"), Api.getJson("/chat_templates")]);
      const names = models.data.map((model) => model.id);
      templates = known.templates;
      Settings.choices("model", names.map((name) => [name, name]));
      Settings.choices("chat_template", [["", "The model's own"], ...templates.map(({ name }) => [name, name])]);
      byId("key-problem").textContent = "";
      return true;
    } catch (error) {
      if (error.status === 401) askForKey(Api.getKey() ? "The server does not know this key." : "");
      else say(error.message);
      byId("model-name").textContent = error.status === 401 ? "" : error.message;
      return false;
    }
  }

  function showSettings() {
    const name = Settings.get("model");
    byId("model-name").textContent = name;
    document.title = name ? `${name} · halfbyte` : "halfbyte";
    const template = templates.find((t) => t.name === Settings.get("chat_template"));
    Settings.setPlaceholder("system", template ? template.system : "None");
  }

  function begin() {
    Answer.stop();
    Conversation.cut(0);
    Messages.show([]);
    showState();
    prompt.focus();
    say("New conversation");
  }

  Messages.handle({
    say,
    regenerate: (index) => {
      if (Answer.isBusy() || !checkSettings()) return;
      forget(index);
      answer();
    },
    resend: (index, text) => {
      if (Answer.isBusy()) return;
      forget(index);
      send(text);
      prompt.focus();
    },
  });

  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    if (Answer.isBusy()) return;
    const text = prompt.value;
    prompt.value = "";
    Messages.grow(prompt);
    send(text);
  });
  prompt.addEventListener("input", () => {
    Messages.grow(prompt);
    showState();
  });
  prompt.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      if (!Answer.isBusy() && prompt.value.trim() !== "") byId("composer").requestSubmit();
    } else if (event.key === "ArrowUp" && prompt.value === "" && !Answer.isBusy()) {
      event.preventDefault();
      Messages.editLast();
    }
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, textarea, select, dialog");
    if (event.key === "Escape" && !byId("key-dialog").open) {
      if (!settings.hidden && (narrow.matches || settings.contains(event.target))) closeSettings();
      else Answer.stop();
    } else if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      prompt.focus();
    }
  });
  byId("stop").addEventListener("click", () => Answer.stop());
  byId("new").addEventListener("click", begin);
  byId("open-settings").addEventListener("click", () => (settings.hidden ? openSettings() : closeSettings()));
  byId("close-settings").addEventListener("click", closeSettings);
  byId("reset-settings").addEventListener("click", () => {
    Settings.reset();
    say("Settings were reset");
  });
  byId("change-key").addEventListener("click", () => askForKey());
  byId("key-cancel").addEventListener("click", () => byId("key-dialog").close());
  byId("key-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    Api.setKey(byId("key").value.trim());
    if (await load()) {
      byId("key-dialog").close();
      prompt.focus();
    }
  });
  byId("suggestions").addEventListener("click", (event) => {
    if (event.target.closest("button")) send(event.target.textContent);
  });
  narrow.addEventListener("change", shield);
  Settings.onChange(showSettings);
  let markdown = null;
  Settings.onChange(() => {
    if (markdown !== null && markdown !== Settings.get("markdown")) Messages.show(Conversation.all());
    markdown = Settings.get("markdown");
  });

  Settings.restore();
  Messages.show(Conversation.all());
  showState();
  Messages.toEnd();
  load();
  if (!narrow.matches) prompt.focus();
})();
