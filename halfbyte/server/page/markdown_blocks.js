"use strict";
// Markdown's blocks, as a tree: headings, lists, quotes, tables, fenced code. HTML is text like any other.

const MarkdownBlocks = (() => {
  const DEPTH = 8; // of lists and quotes in one another; what is deeper is a paragraph
  const FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*([^`\n]*)$/;
  const QUOTE = /^ {0,3}>/;
  const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?:( +)|$)/;
  const RULE = /^ {0,3}([-*_])[ \t]*(?:\1[ \t]*){2,}$/;
  const HEADING = /^ {0,3}(#{1,6})(?=[ \t]|$)/;
  const CELL_RULE = /^:?-+:?$/;

  const indentOf = (line) => line.length - line.trimStart().length;
  const isBlank = (line) => line === undefined || line.trim() === "";

  function startsBlock(line) {
    const item = ITEM.exec(line);
    const interrupts = item && indentOf(line) < 4 && (/^[-*+1]/.test(item[2]) || false) && item[3];
    return FENCE.test(line) || QUOTE.test(line) || RULE.test(line) || HEADING.test(line) || Boolean(interrupts);
  }

  class Parser {
    constructor(lines, depth) {
      this.lines = lines;
      this.depth = depth;
      this.at = 0;
      this.blocks = [];
    }

    parse() {
      while (this.at < this.lines.length) {
        const start = this.at;
        const block = isBlank(this.lines[start]) ? null : this.next();
        if (block === null) this.at = start + 1;
        else this.blocks.push({ ...block, source: this.lines.slice(start, this.at).join("\n") });
      }
      return this.blocks;
    }

    next() {
      const line = this.lines[this.at];
      const fence = FENCE.exec(line);
      if (fence) return this.fence(fence, indentOf(line));
      if (HEADING.test(line)) return this.heading(line);
      if (RULE.test(line)) return this.single({ type: "rule" });
      if (this.depth < DEPTH) {
        if (QUOTE.test(line)) return this.quote();
        const item = ITEM.exec(line);
        if (item) return this.list(item);
      }
      return this.table() ?? this.paragraph();
    }

    single(block) {
      this.at += 1;
      return block;
    }

    fence([, mark, info], indent) {
      const code = [];
      let closed = false;
      const end = new RegExp(`^ {0,3}${mark[0]}{${mark.length},}[ \\t]*$`);
      for (this.at += 1; this.at < this.lines.length && !closed; this.at += 1) {
        const line = this.lines[this.at];
        closed = end.test(line);
        if (!closed) code.push(line.slice(Math.min(indent, indentOf(line))));
      }
      return { type: "code", language: info.trim().split(/\s/)[0], text: code.join("\n"), closed };
    }

    heading(line) {
      const level = HEADING.exec(line)[1].length;
      const words = line.trim().slice(level).trim().split(/[ \t]+/);
      if (/^#+$/.test(words[words.length - 1])) words.pop();
      return this.single({ type: "heading", level, text: words.join(" ") });
    }

    quote() {
      const inner = [];
      while (this.at < this.lines.length && QUOTE.test(this.lines[this.at])) {
        inner.push(this.lines[this.at].trimStart().slice(1).replace(/^ /, ""));
        this.at += 1;
      }
      return { type: "quote", blocks: new Parser(inner, this.depth + 1).parse() };
    }

    list([, , mark]) {
      const ordered = /\d/.test(mark);
      const kind = mark[mark.length - 1];
      const items = [];
      let loose = false;
      for (;;) {
        const line = this.lines[this.at];
        const item = isBlank(line) || RULE.test(line) ? null : ITEM.exec(line);
        if (!item || item[2][item[2].length - 1] !== kind || /\d/.test(item[2]) !== ordered) break;
        const { lines, blankAfter } = this.item(item);
        const blocks = new Parser(lines, this.depth + 1).parse();
        loose = loose || (blankAfter && this.continues(kind)) || blocks.length > 1 + blocks.filter(isList).length;
        items.push(blocks);
      }
      return { type: "list", ordered, start: ordered ? parseInt(mark, 10) : 1, loose, items };
    }

    continues(kind) {
      const item = isBlank(this.lines[this.at]) ? null : ITEM.exec(this.lines[this.at]);
      return Boolean(item) && item[2][item[2].length - 1] === kind;
    }

    /** An item's lines without their indent, and whether a blank line follows. Models indent by two as often as by
     * the width of the mark, so that two spaces are enough. */
    item([all, before, mark, gap]) {
      const first = this.lines[this.at].slice(all.length);
      const width = before.length + mark.length + Math.min((gap ?? " ").length, 4);
      const least = Math.min(width, before.length + 2);
      const lines = [first];
      let blankAfter = false;
      for (this.at += 1; this.at < this.lines.length; this.at += 1) {
        const line = this.lines[this.at];
        const indent = indentOf(line);
        if (isBlank(line)) {
          blankAfter = true;
          lines.push("");
        } else if (indent >= least) {
          blankAfter = false;
          lines.push(line.slice(Math.min(indent, width)));
        } else if (!blankAfter && !startsBlock(line) && !ITEM.test(line)) {
          lines.push(line.trimStart());
        } else break;
      }
      while (lines.length > 1 && lines[lines.length - 1] === "") lines.pop();
      return { lines, blankAfter };
    }

    table() {
      const line = this.lines[this.at];
      const below = this.lines[this.at + 1];
      if (!line.includes("|") || below === undefined || !below.includes("-")) return null;
      const head = cellsOf(line);
      const rules = cellsOf(below);
      if (rules.length !== head.length || !rules.every((cell) => CELL_RULE.test(cell))) return null;
      const rows = [];
      for (this.at += 2; !isBlank(this.lines[this.at]) && this.lines[this.at].includes("|"); this.at += 1) {
        const cells = cellsOf(this.lines[this.at]);
        rows.push(head.map((_, i) => cells[i] ?? ""));
      }
      return { type: "table", head, rows, sides: rules.map(sideOf) };
    }

    paragraph() {
      const text = [this.lines[this.at].trim()];
      for (this.at += 1; !isBlank(this.lines[this.at]) && !startsBlock(this.lines[this.at]); this.at += 1) {
        text.push(this.lines[this.at].trim());
      }
      return { type: "paragraph", text: text.join("\n") };
    }
  }

  const isList = (block) => block.type === "list";

  function sideOf(rule) {
    if (rule.endsWith(":")) return rule.startsWith(":") ? "center" : "right";
    return "left";
  }

  /** The cells of a table's line. `\|` is no border, nor is what stands within backticks. */
  function cellsOf(line) {
    const cells = [""];
    let inCode = false;
    const text = line.trim().replace(/^\|/, "");
    for (let i = 0; i < text.length; i += 1) {
      if (text[i] === "`") inCode = !inCode;
      if (text[i] === "\\" && text[i + 1] === "|") {
        cells[cells.length - 1] += "|";
        i += 1;
      } else if (text[i] === "|" && !inCode) cells.push("");
      else cells[cells.length - 1] += text[i];
    }
    if (cells.length > 1 && isBlank(cells[cells.length - 1])) cells.pop();
    return cells.map((cell) => cell.trim());
  }

  const parse = (text) => new Parser(text.replace(/\r\n?/g, "\n").replace(/\t/g, "    ").split("\n"), 0).parse();
  return { parse };
})();
