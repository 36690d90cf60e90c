/** Tables and figures: what the paper shows. */
function overviewPage() {
  const done = DATA.runs.filter((run) => run.state === "done").length;
  const failed = DATA.runs.filter((run) => run.state === "failed").length;
  const missing = DATA.runs.length - done - failed;
  const lacking = [failed ? `${failed} failed` : "", missing ? `${missing} missing` : ""].filter(Boolean).join(", ");
  const counted = (things, word) => `${things.length} ${word}${things.length === 1 ? "" : "s"}`;
  const varied = [counted(DATA.tasks, "task"), counted(DATA.methods, "method"), counted(DATA.seeds, "seed")].join(", ");
  const counts = `${varied}: ${counted(DATA.runs, "run")}`;
  return el("div", {},
    el("h1", {}, DATA.title),
    DATA.caption ? el("p", {}, DATA.caption) : null,
    el("p", {}, counts, lacking ? `, of which ${lacking}` : ", all done", ". ", el("a", { href: "#/runs" }, "List of runs")),
    DATA.tables.filter((table) => table.sections.length).map(tableSection),
    el("h2", {}, "Figures"),
    overviewFigures(),
  );
}

/** One table of the paper: a section a benchmark, one filter for all. */
function tableSection(table) {
  const made = table.sections.map((section) => {
    const kept = section.columns.map((column, at) => (column.title ? at : -1)).filter((at) => at >= 0);
    const columns = kept.map((at) => ({ ...section.columns[at], group: section.columns[at].group || "" }));
    const rows = section.rows.map((row) => kept.map((at) => row[at]));
    return { title: section.title, ...sortable(section.title, columns, rows) };
  });
  const count = el("span", { class: "faint", role: "status" });
  const input = el("input", { type: "search", oninput: () => {
    const shown = made.reduce((sum, part) => sum + part.filter(input.value), 0);
    count.textContent = input.value ? `${shown} rows` : "";
  } });
  return el("section", { "aria-label": table.title, "data-table": table.name },
    el("h2", {}, table.title === DATA.title ? "Results" : table.title.replace(`${DATA.title}: `, "")),
    table.caption && table.caption !== table.title ? el("p", { class: "faint" }, table.caption) : null,
    el("div", { class: "controls" }, el("label", {}, "Filter rows", input), count),
    made.map((part) => scrolling(part.title || table.title, part.element)),
    el("ul", { class: "notes" }, table.notes.map((note) => el("li", {}, note.mark ? el("sup", {}, `${note.mark} `) : null, note.text))),
  );
}

/** Every run, one line each. */
function runsPage() {
  const columns = [
    ["run"], ["score", "number"], ["metric"], ["task"], ["method"], ["seed", "number"], ["model"], ["state"],
    ["training (s)", "number"], ["trainable parameters", "number"],
  ].map(([title, kind]) => ({ title, kind: kind || "text" }));
  const table = sortable("", columns, DATA.runs.map(runLine));
  const chosen = { task: "", method: "", state: "" };
  const count = el("span", { class: "faint", role: "status" });
  const input = el("input", { type: "search", id: "filter-runs", oninput: refresh });
  function refresh() {
    const fits = (number) => Object.entries(chosen).every(([key, value]) => !value || DATA.runs[number][key] === value);
    count.textContent = `${table.filter(input.value, fits)} of ${DATA.runs.length} runs`;
  }
  const selects = Object.keys(chosen).map((key) => {
    const values = [...new Set(DATA.runs.map((run) => run[key]))];
    return choice(key, [["", "all"], ...values.map((value) => [value, value])], "", (value) => { chosen[key] = value; refresh(); });
  });
  refresh();
  return el("div", {}, el("h1", {}, "Runs"),
    el("div", { class: "controls" }, el("label", {}, "Filter rows", input), selects, count),
    scrolling("Runs", table.element, "scroll rows"),
  );
}

function runLine(run) {
  const first = run.results[0];
  const value = first ? first.metrics[first.main] : null;
  const cell = (text, sort) => ({ text: String(text), sort });
  return [
    { text: run.name, node: el("a", { href: linkTo(run) }, run.name) },
    first ? cell(shownValue(first.main, value), value) : cell("–", null), cell(first ? first.main : "–"),
    cell(run.task), cell(run.method), cell(run.seed, run.seed), cell(run.model), cell(run.state),
    cell(brief(run.cost.train_seconds), run.cost.train_seconds ?? null),
    cell(brief(run.cost.trainable_parameters), run.cost.trainable_parameters ?? null),
  ];
}
