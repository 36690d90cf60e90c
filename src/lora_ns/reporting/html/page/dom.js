"use strict";

/** An element.  Children that are strings become text, never markup: models' words are shown, not run. */
function el(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

/** Tells a screen reader what has changed. */
function say(text) {
  document.getElementById("status").textContent = text;
}

/** A labelled <select>.  options: [value, text], or {group, options}. */
function choice(label, options, chosen, onchange) {
  const option = ([value, text]) => el("option", { value, selected: String(value) === String(chosen) }, text);
  const made = options.map((o) => (o.group === undefined ? option(o) : el("optgroup", { label: o.group }, o.options.map(option))));
  const select = el("select", { onchange: () => onchange(select.value) }, made);
  return el("label", {}, label, select);
}

/** Names and values; values that are objects as indented JSON, folded away where they are long. */
function facts(values) {
  const shown = Object.entries(values).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return el("dl", { class: "facts" }, shown.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, plain(value))]));
}

function plain(value) {
  if (value instanceof Node) return value;
  if (Array.isArray(value)) return el("ul", {}, value.map((one) => el("li", {}, plain(one))));
  if (typeof value !== "object") return String(value);
  const text = el("pre", { class: "text" }, JSON.stringify(value, null, 1));
  const names = Object.keys(value);
  return names.length > 3 ? el("details", {}, el("summary", {}, `${names.slice(0, 3).join(", ")}, …`), text) : text;
}

/** A number as the tables print it. */
function shownValue(metric, value) {
  const form = DATA.metrics[metric];
  return value === null || value === undefined ? "–" : (value * form.scale).toFixed(form.decimals);
}

/** Seconds, parameters, bytes: three digits are enough. */
function brief(value) {
  if (value === null || value === undefined) return "–";
  return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(3)));
}
