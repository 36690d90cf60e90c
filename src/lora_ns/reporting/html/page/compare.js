const compareLink = (a, b) => `#/compare/${encodeURIComponent(a.name)}/${encodeURIComponent(b.name)}`;

/** Two runs that were asked the same, row by row. */
async function comparePage(first, second) {
  const runs = DATA.runs.filter((run) => run.results.length);
  const a = DATA.runs[RUN_NUMBER.get(first)] || runs[0];
  const b = DATA.runs[RUN_NUMBER.get(second)] || runs.find((run) => a && run !== a && sharedExams(a, run).length) || a;
  const page = el("div", {}, el("h1", {}, "Compare two runs"));
  if (!a || !b) {
    page.append(el("p", {}, "No run has a score yet."));
    return page;
  }
  page.append(el("div", { class: "controls" },
    choice("First run", byTask(runs), a.name, (name) => { location.hash = compareLink({ name }, b); }),
    choice("Second run", byTask(runs), b.name, (name) => { location.hash = compareLink(a, { name }); }),
  ));
  page.append(el("p", {}, "First: ", el("a", { href: linkTo(a) }, a.name), el("br"), "Second: ", el("a", { href: linkTo(b) }, b.name)));
  const shared = sharedExams(a, b);
  if (!shared.length) {
    page.append(el("p", {}, "These two were not asked the same: they share no evaluation."));
    return page;
  }
  const details = await Promise.all([detailsOf(a), detailsOf(b)]);
  for (const evaluation of shared) {
    const exam = await examOf(evaluation);
    const answered = details.map((one) => one.exams.find((asked) => asked.evaluation === evaluation));
    page.append(comparison(exam, [a, b], answered));
  }
  return page;
}

function sharedExams(a, b) {
  const asked = new Set(b.results.map((result) => result.evaluation));
  return a.results.map((result) => result.evaluation).filter((evaluation) => asked.has(evaluation));
}

function byTask(runs) {
  return [...new Set(runs.map((run) => run.task))].map((task) => ({
    group: task,
    options: runs.filter((run) => run.task === task).map((run) => [run.name, methodAndSeed(run)]),
  }));
}

/** How often both, one or none is right, and the rows themselves. */
function comparison(exam, runs, answered) {
  const names = runs.map(methodAndSeed);
  const section = el("section", {}, el("h2", {}, exam.benchmark));
  const judged = answered.every(isJudged);
  const kindOf = (row) => answered.map((one) => (one.right[row] === 1 ? 1 : 0)).join("");
  const kinds = [[`only ${names[0]}`, "10"], [`only ${names[1]}`, "01"], ["both right", "11"], ["both wrong", "00"]];
  if (judged) {
    const all = exam.ids.map((_, row) => kindOf(row));
    const columns = [{ title: "who is right", kind: "text" }, { title: "rows", kind: "number" }, { title: "% of all", kind: "number" }];
    const rows = kinds.map(([name, kind]) => {
      const number = all.filter((one) => one === kind).length;
      return [{ text: name }, { text: String(number) }, { text: ((100 * number) / all.length).toFixed(1) }];
    });
    section.append(scrolling("Who is right", sortable(`All ${all.length} rows`, columns, rows).element));
  }
  if (!answered.every((one) => one.answers)) {
    section.append(el("p", {}, "Not both runs' predictions were on the machine that made this report (results/predictions)."));
    return section;
  }
  const items = exam.shown.map((row, at) => ({ row, at }));
  if (items.length < exam.ids.length) section.append(el("p", { class: "faint" }, `${items.length} of the ${exam.ids.length} rows are shown here.`));
  const render = (item) => exampleItem(exam, item, answered.map((one, at) => ({
    answer: one.answers[item.at], verdict: judged ? verdictOf(one.right[item.row]) : null, who: names[at],
  })));
  const filters = judged ? kinds.map(([name, kind]) => [name, (item) => kindOf(item.row) === kind]) : [];
  section.append(pagedExamples(items, filters.length ? [...filters, ["all", () => true]] : [], render));
  return section;
}
