/**
 * A table that is sorted by its headers.  columns: {title, kind: "text" | "number", group}; rows: arrays of
 * {text, node, sort, bold, marks}, the first of a row being its header.
 * Returns {element, filter(words, keep) -> number of rows shown}.
 */
function sortable(caption, columns, rows) {
  const heads = columns.map((column, at) => header(column, () => sortBy(at)));
  const lines = rows.map((cells) => ({
    element: el("tr", {}, cells.map((cell, at) => tableCell(cell, columns[at], at === 0))),
    keys: cells.map((cell) => (cell.sort !== undefined ? cell.sort : sortKey(cell.text))),
    text: cells.map((cell) => cell.text).join(" ").toLowerCase(),
  }));
  const body = el("tbody", {}, lines.map((line) => line.element));
  const element = el("table", {}, el("caption", {}, caption), el("thead", {}, el("tr", {}, heads)), body);

  function sortBy(at) {
    const down = heads[at].getAttribute("aria-sort") === "ascending";
    heads.forEach((head, other) => head.setAttribute("aria-sort", other !== at ? "none" : down ? "descending" : "ascending"));
    const order = [...lines].sort((a, b) => compareKeys(a.keys[at], b.keys[at], down));
    body.append(...order.map((line) => line.element));
    say(`${caption || "Table"}: sorted by ${columns[at].title}, ${down ? "descending" : "ascending"}`);
  }

  function filter(words, keep) {
    const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    lines.forEach((line, number) => {
      const fits = wanted.every((word) => line.text.includes(word)) && (!keep || keep(number));
      line.element.hidden = !fits;
      shown += fits ? 1 : 0;
    });
    return shown;
  }

  return { element, filter };
}

function header(column, onclick) {
  const group = column.group ? el("span", { class: "group" }, column.group) : null;
  const button = el("button", { type: "button", onclick }, group, column.title, el("span", { class: "arrow", "aria-hidden": "true" }));
  return el("th", { scope: "col", class: column.kind, "aria-sort": "none" }, button);
}

function tableCell(cell, column, first) {
  const said = column.kind === "number" ? grouped(cell.text) : cell.text;
  const text = cell.node || (cell.bold ? el("strong", {}, said) : said);
  const marks = cell.marks && cell.marks.length ? el("sup", {}, ` ${cell.marks.join(",")}`) : null;
  return el(first ? "th" : "td", { class: column.kind, scope: first ? "row" : null }, text, marks);
}

/** 12345.6 as 12,345.6, as in the paper: from five digits on. */
function grouped(text) {
  const [whole, ...rest] = text.split(".");
  return /^-?\d{5,}$/.test(whole) ? [whole.replace(/\B(?=(\d{3})+$)/g, ","), ...rest].join(".") : text;
}

/** The first number of a cell, an interval's lower end; else its text.  A dash is no value. */
function sortKey(text) {
  if (text === "–" || text === "") return null;
  const number = parseFloat(text.replace(/^[[<]/, "").replaceAll(",", ""));
  return Number.isNaN(number) ? text.toLowerCase() : number;
}

/** Numbers before texts; what has no value stands last whichever way is sorted. */
function compareKeys(a, b, down) {
  if (a === null || b === null) return (a === null) - (b === null);
  const order = typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
  return down ? -order : order;
}

/** A table wider than the page scrolls by itself, also by keyboard. */
function scrolling(label, table, className = "scroll") {
  return el("div", { class: className, tabindex: "0", role: "region", "aria-label": label }, table);
}
