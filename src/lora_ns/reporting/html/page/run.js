const EXAMPLES_AT_ONCE = 10;

/** One run: what it is, what it came to, its curve, its answers, and where all that is from. */
async function runPage(name) {
  const run = DATA.runs[RUN_NUMBER.get(name)];
  if (!run) return el("div", {}, el("h1", {}, "No such run"), el("p", {}, name));
  const details = await detailsOf(run);
  const exams = await Promise.all(details.exams.map((answered) => examOf(answered.evaluation)));
  return el("div", {},
    el("h1", {}, run.name),
    facts({ task: run.task, model: run.model, method: run.method, seed: run.seed, state: run.state, reason: run.reason }),
    comparisonLink(run),
    metricsTable(run),
    details.history.length ? el("section", {}, el("h2", {}, "Training"), runCurve(run, details.history)) : null,
    details.exams.map((answered, at) => answersSection(answered, exams[at])),
    el("h2", {}, "Config"),
    details.config ? el("details", {}, el("summary", {}, "The run file, complete"), el("pre", { tabindex: "0" }, details.config)) : el("p", {}, "Its run file is not here."),
    details.provenance.length ? el("h2", {}, "Provenance") : null,
    details.provenance.map((one) => el("section", {}, el("h3", {}, one.evaluation), facts({ ...one, evaluation: null }))),
  );
}

/** To the baseline's run of the same task and seed, where there is one. */
function comparisonLink(run) {
  const alike = (other) => other.task === run.task && other.name !== run.name && other.results.length;
  const others = DATA.runs.filter(alike);
  const other = others.find((o) => o.method === DATA.baseline && o.seed === run.seed) || others.find((o) => o.seed === run.seed) || others[0];
  if (!other || !run.results.length) return null;
  return el("p", {}, el("a", { href: compareLink(run, other) }, `Compare with ${methodAndSeed(other)}, example by example`));
}

function metricsTable(run) {
  if (!run.results.length) return null;
  const columns = [["benchmark"], ["metric"], ["value", "number"], ["examples", "number"]].map(([title, kind]) => ({ title, kind: kind || "text" }));
  const rows = run.results.flatMap((result) => Object.entries(result.metrics).map(([metric, value]) => [
    { text: result.benchmark }, { text: DATA.metrics[metric].heading }, { text: shownValue(metric, value), bold: metric === result.main }, { text: String(result.n) },
  ]));
  return el("section", {}, el("h2", {}, "Scores"), scrolling("Scores", sortable("", columns, rows).element));
}

function runCurve(run, history) {
  const build = () => ({
    traces: [{ x: history.map((point) => point[0]), y: history.map((point) => point[1]), mode: "lines", line: { color: look(run.method).colour, width: 2 } }],
    layout: { xaxis: { ...AXIS, title: { text: "step" } }, yaxis: { ...AXIS, title: { text: "training loss" } } },
  });
  const last = history[history.length - 1][1];
  return figure(`Line plot of the training loss, from ${brief(history[0][1])} to ${brief(last)}`, "Training loss by step.", build).element;
}

/** Answers of one benchmark, right and wrong ones to choose from. */
function answersSection(answered, exam) {
  const section = el("section", {}, el("h2", {}, `Answers: ${exam.benchmark}`));
  if (exam.settings) section.append(el("details", {}, el("summary", {}, "How it was asked"), el("pre", { tabindex: "0" }, exam.settings)));
  if (!answered.answers) {
    section.append(el("p", {}, "Its predictions were not on the machine that made this report (results/predictions)."));
    return section;
  }
  const items = exam.shown.map((row, at) => ({ row, at, verdict: isJudged(answered) ? verdictOf(answered.right[row]) : null }));
  const part = items.length < exam.ids.length ? `${items.length} of the ${exam.ids.length} rows are shown here. ` : "";
  section.append(el("p", { class: "faint" }, part + tally(answered)));
  const render = (item) => exampleItem(exam, item, [{ answer: answered.answers[item.at], verdict: item.verdict, who: "" }]);
  const kinds = isJudged(answered) ? [["wrong", (item) => item.verdict !== "right"], ["right", (item) => item.verdict === "right"], ["all", () => true]] : [];
  section.append(pagedExamples(items, kinds, render));
  return section;
}

function tally(answered) {
  if (!isJudged(answered)) return "";
  const right = answered.right.filter((value) => value === 1).length;
  return `${right} of all ${answered.right.length} are right, ${answered.right.length - right} are not.`;
}

/** A list that grows by ten, with buttons for its kinds: [name, item -> whether it belongs there]. */
function pagedExamples(items, kinds, render) {
  const list = el("ul", { class: "examples" });
  const more = el("button", { type: "button", class: "plain", onclick: () => grow() }, "Show more");
  const count = el("span", { class: "faint", role: "status" });
  let chosen = items;
  function grow() {
    const from = list.children.length;
    list.append(...chosen.slice(from, from + EXAMPLES_AT_ONCE).map((item) => el("li", {}, render(item))));
    more.hidden = list.children.length >= chosen.length;
    count.textContent = `${list.children.length} of ${chosen.length} shown`;
  }
  const buttons = kinds.map(([name, belongs]) => {
    const number = items.filter(belongs).length;
    const press = () => {
      buttons.forEach((button) => button.setAttribute("aria-pressed", String(button === own)));
      chosen = items.filter(belongs);
      list.replaceChildren();
      grow();
    };
    const own = el("button", { type: "button", class: "plain", "aria-pressed": "false", "data-kind": name, onclick: press, disabled: number === 0 }, `${name} (${number})`);
    return own;
  });
  const usable = buttons.find((button) => !button.disabled);
  if (usable) usable.click();
  else grow();
  return el("div", {}, el("div", { class: "controls" }, buttons, count), list, more);
}

/** One row: question, expected answer, and what was answered.  answers: {answer, verdict, who}. */
function exampleItem(exam, item, answers) {
  const single = answers.length === 1 ? answers[0].verdict : null;
  const reference = exam.references[item.at];
  return el("article", { class: `example ${single === "right" ? "right" : single ? "wrong" : ""}` },
    el("h4", {}, `Row ${exam.ids[item.row]}`),
    exam.prompts[item.at] ? [el("p", { class: "what" }, "Asked"), el("pre", { class: "text" }, exam.prompts[item.at])] : null,
    reference ? [el("p", { class: "what" }, "Expected"), el("pre", { class: "text" }, reference)] : null,
    el("div", { class: "pair" }, answers.map(({ answer, verdict, who }) => el("div", {},
      el("p", { class: "what" }, who ? `${who} answered ` : "Answered ", verdict ? el("span", { class: `verdict ${verdict === "right" ? "right" : "wrong"}` }, verdict) : null),
      el("pre", { class: "text" }, answer.text),
      answer.parsed !== undefined && answer.parsed !== answer.text ? [el("p", { class: "what" }, "Read as"), el("pre", { class: "text" }, answer.parsed)] : null,
    ))),
  );
}
