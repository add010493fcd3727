"use strict";
// Markdown inside a paragraph, as a tree: texts, and {tag, children, text, href}. Time is linear in the text's length.

const MarkdownInline = (() => {
  const DEPTH = 24; // of open marks; more are taken as plain text, which bounds the search for their ends
  const LONGEST_URL = 2048;
  const SPECIAL = /[\\`*_~[\]!<\n]|https?:\/\//g;
  const TAGS = { "*1": "em", "_1": "em", "*2": "strong", "_2": "strong", "~2": "del" };
  const WORD = /[\p{L}\p{N}]/u;

  /** An address that a link may have: http, https or mailto. Anything else (javascript:, data:) is null. */
  function safeAddress(text) {
    if (!/^(https?:\/\/|mailto:)/i.test(text)) return null;
    try {
      return new URL(text).href;
    } catch {
      return null;
    }
  }

  class Parser {
    constructor(text) {
      this.text = text;
      this.root = { children: [] };
      this.stack = [this.root]; // open marks, each with what has come since
      this.ticks = null;
    }

    get top() {
      return this.stack[this.stack.length - 1];
    }

    add(node) {
      const children = this.top.children;
      const last = children.length - 1;
      if (typeof node === "string" && typeof children[last] === "string") children[last] += node;
      else if (node !== "") children.push(node);
    }

    parse() {
      let at = 0;
      SPECIAL.lastIndex = 0;
      for (let found; (found = SPECIAL.exec(this.text)); SPECIAL.lastIndex = at) {
        this.add(this.text.slice(at, found.index));
        at = this.special(found.index, found[0]);
      }
      this.add(this.text.slice(at));
      this.flatten(1);
      return this.root.children;
    }

    /** Take what begins at `at`; returns where to go on. */
    special(at, mark) {
      const next = this.text[at + 1] ?? "";
      if (mark.length > 1) return this.bareLink(at);
      if (mark === "\n") return this.put({ tag: "br" }, at + 1);
      if (mark === "\\") return /[!-/:-@[-`{-~]/.test(next) ? this.put(next, at + 2) : this.put("\\", at + 1);
      if (mark === "`") return this.code(at);
      if (mark === "[") return this.open({ mark: "[", image: false }, at + 1);
      if (mark === "!") return next === "[" ? this.open({ mark: "![", image: true }, at + 2) : this.put("!", at + 1);
      if (mark === "]") return this.link(at);
      if (mark === "<") return this.angled(at);
      return this.emphasis(at, mark);
    }

    put(node, next) {
      this.add(node);
      return next;
    }

    open(frame, next) {
      if (this.stack.length >= DEPTH) return this.put(frame.mark, next);
      this.stack.push({ ...frame, children: [] });
      return next;
    }

    /** Marks from this place of the stack on were no marks: their characters are text. */
    flatten(place) {
      while (this.stack.length > place) {
        const frame = this.stack.pop();
        this.add(frame.mark);
        frame.children.forEach((child) => this.add(child));
      }
    }

    /** The innermost open mark that fits, as its place in the stack; 0 if there is none. */
    find(fits) {
      let place = this.stack.length - 1;
      while (place > 0 && !fits(this.stack[place])) place -= 1;
      return place;
    }

    /** End the mark at this place: all since is its content. */
    close(place, node) {
      this.flatten(place + 1);
      const { children } = this.stack.pop();
      this.add({ ...node, children });
    }

    emphasis(at, mark) {
      let end = at;
      while (this.text[end] === mark) end += 1;
      let count = end - at;
      const before = this.text[at - 1] ?? " ";
      const after = this.text[end] ?? " ";
      const inWord = mark === "_" && WORD.test(before) && WORD.test(after);
      if (count > 3 || inWord || (mark === "~" && count !== 2)) return this.put(this.text.slice(at, end), end);
      if (!/\s/.test(before)) count = this.closeEmphasis(mark, count);
      if (count === 0) return end;
      const width = Math.min(count, 2);
      if (/\s/.test(after) || (mark === "~" && count !== 2)) return this.put(mark.repeat(count), end);
      this.open({ mark: mark.repeat(width), char: mark, width }, end);
      if (count === 3) this.open({ mark, char: mark, width: 1 }, end);
      return end;
    }

    closeEmphasis(mark, count) {
      let left = count;
      while (left > 0) {
        const place = this.find((frame) => frame.char === mark && frame.width <= left && frame.children.length > 0);
        if (place === 0) break;
        const { width } = this.stack[place];
        this.close(place, { tag: TAGS[mark + width] });
        left -= width;
      }
      return left;
    }

    code(at) {
      let end = at;
      while (this.text[end] === "`") end += 1;
      const close = this.closingTicks(end, end - at);
      if (close < 0) return this.put(this.text.slice(at, end), end);
      let text = this.text.slice(end, close).replace(/\n/g, " ");
      if (text.length > 2 && text.startsWith(" ") && text.endsWith(" ")) text = text.slice(1, -1);
      this.add({ tag: "code", text });
      return close + (end - at);
    }

    /** Where the next run of exactly `count` backticks begins, from `from` on; -1 if there is none. */
    closingTicks(from, count) {
      if (this.ticks === null) {
        this.ticks = new Map();
        for (const run of this.text.matchAll(/`+/g)) {
          if (!this.ticks.has(run[0].length)) this.ticks.set(run[0].length, { places: [], next: 0 });
          this.ticks.get(run[0].length).places.push(run.index);
        }
      }
      const runs = this.ticks.get(count);
      if (!runs) return -1;
      while (runs.next < runs.places.length && runs.places[runs.next] < from) runs.next += 1;
      return runs.next < runs.places.length ? runs.places[runs.next] : -1;
    }

    link(at) {
      const place = this.find((frame) => frame.mark === "[" || frame.mark === "![");
      if (place === 0) return this.put("]", at + 1);
      const target = this.text[at + 1] === "(" ? this.target(at + 2) : null;
      const href = target && safeAddress(target.address);
      if (!href) {
        this.flatten(place);
        return this.put("]", at + 1);
      }
      const empty = this.stack[place].children.length === 0;
      if (this.stack[place].image && empty) this.add("image");
      if (!this.stack.slice(0, place).some((frame) => frame.mark === "[")) this.close(place, { tag: "a", href });
      else this.flatten(place); // a link within a link
      return target.end;
    }

    /** `address "title")` after the opening bracket. Balanced brackets belong to the address. */
    target(from) {
      let depth = 0;
      let end = from;
      const last = Math.min(this.text.length, from + LONGEST_URL);
      for (; end < last; end += 1) {
        const char = this.text[end];
        if (/\s/.test(char)) break;
        if (char === "(") depth += 1;
        if (char === ")" && depth-- === 0) return { address: this.text.slice(from, end), end: end + 1 };
      }
      const title = /^[ \t]+("[^"\n]{0,400}"|'[^'\n]{0,400}')\)/.exec(this.text.slice(end, end + 410));
      return title && depth === 0 ? { address: this.text.slice(from, end), end: end + title[0].length } : null;
    }

    angled(at) {
      const found = /^<(https?:\/\/[^\s<>]+|mailto:[^\s<>]+)>/i.exec(this.text.slice(at, at + LONGEST_URL));
      const href = found && safeAddress(found[1]);
      if (!href) return this.put("<", at + 1);
      return this.put({ tag: "a", href, text: found[1] }, at + found[0].length);
    }

    bareLink(at) {
      const found = /^[^\s<>"`*|]+/.exec(this.text.slice(at, at + LONGEST_URL))[0];
      const closers = found.includes("(") ? ".,;:!?']_~" : ".,;:!?']_~)"; // that end the sentence, not the address
      let end = found.length;
      while (closers.includes(found[end - 1])) end -= 1;
      const address = found.slice(0, end);
      const inLink = this.find((frame) => frame.mark === "[") > 0;
      const href = inLink ? null : safeAddress(address);
      return this.put(href ? { tag: "a", href, text: address } : address, at + address.length);
    }
  }

  return { parse: (text) => new Parser(text).parse() };
})();
