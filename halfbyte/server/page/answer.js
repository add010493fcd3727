"use strict";
// One answer: asks for it, shows it as it comes, counts its tokens and their speed.

const Answer = (() => {
  let current = null; // what stops the answer that is being written

  class Count {
    constructor() {
      this.asked = performance.now();
      this.first = null;
      this.last = null;
      this.tokens = 0;
      this.promptTokens = null;
    }

    take(chunk) {
      this.last = performance.now();
      if (chunk.choices?.length) {
        this.first ??= this.last;
        if (chunk.choices[0].delta?.content) this.tokens += 1; // nearly: a usage says how many
      }
      if (chunk.usage) {
        this.tokens = chunk.usage.completion_tokens;
        this.promptTokens = chunk.usage.prompt_tokens;
      }
    }

    toString() {
      if (this.first === null) return "";
      const count = `${this.tokens} ${this.tokens === 1 ? "token" : "tokens"}`;
      const seconds = (this.last - this.first) / 1000;
      const parts = [this.promptTokens === null ? count : `${count} (prompt ${this.promptTokens})`];
      if (this.tokens > 1 && seconds > 0) parts.push(`${((this.tokens - 1) / seconds).toFixed(1)} tokens/s`);
      parts.push(`first in ${((this.first - this.asked) / 1000).toFixed(2)} s`);
      return parts.join(" · ");
    }
  }

  const REASONS = {
    length: "The answer reached its longest length.",
    content_filter: "The answer was withheld.",
  };

  /** Write an answer to the conversation as it stands into `message`, which `item` shows. True if it came to its end. */
  async function write(message, item) {
    const stopper = new AbortController();
    current = stopper;
    const count = new Count();
    let due = 0;
    const show = () => {
      due = 0;
      message.note = count.toString();
      Messages.fill(item, message);
    };
    Messages.setBusy(item, true);
    try {
      const body = { ...Settings.forRequest(), messages: Conversation.toSend(Settings.get("system")) };
      for await (const chunk of Api.chat(body, stopper.signal)) {
        count.take(chunk);
        const choice = chunk.choices?.[0];
        message.content += choice?.delta?.content ?? "";
        if (choice?.finish_reason in REASONS) message.error = REASONS[choice.finish_reason];
        due ||= requestAnimationFrame(show);
      }
      return true;
    } catch (error) {
      if (error.name !== "AbortError") message.error = error.message;
      if (error.status === 401) throw error;
      return false;
    } finally {
      cancelAnimationFrame(due);
      show();
      Messages.setBusy(item, false);
      Conversation.save();
      current = null;
    }
  }

  return { write, stop: () => current?.abort(), isBusy: () => current !== null };
})();
