/** Okabe & Ito 2008: told apart by the colour-blind; markers and dashes tell them apart in grey. */
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B98500", "#3C9DD0", "#000000", "#8C6D31"];
const SYMBOLS = ["circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "star", "hexagon", "pentagon", "hourglass"];
const DASHES = ["solid", "dash", "dashdot", "dot", "longdash"];

function look(method) {
  const at = DATA.methods.indexOf(method);
  return { colour: COLOURS[at % 8], symbol: SYMBOLS[at % 11], dash: DASHES[at % 5] };
}

let plotlyReady = null;

/** plotly, which is unpacked and read when the first figure comes into view. */
function plotly() {
  plotlyReady ??= unpack("plotly").then((source) => {
    document.head.append(el("script", {}, source));
    return window.Plotly;
  });
  return plotlyReady;
}

/** A figure that is drawn once it is in view.  build() -> {traces, layout}; returns {element, redraw}. */
function figure(label, caption, build) {
  const place = el("div", { class: "plot", role: "img", "aria-label": label });
  const element = el("figure", {}, place, el("figcaption", {}, caption));
  // the legend stands above the plot: many methods need more room
  place.style.minHeight = `${20 + 0.6 * DATA.methods.length}rem`;
  let seen = false;
  async function redraw() {
    if (!seen) return;
    const library = await plotly();
    const { traces, layout } = build();
    await library.react(place, traces, { ...BASE_LAYOUT, ...layout }, CONFIG);
    if (!place.dataset.drawn) place.on("plotly_click", ({ points }) => { if (points[0].customdata) location.hash = linkTo({ name: points[0].customdata }); });
    place.dataset.drawn = "yes";
  }
  const watch = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    watch.disconnect();
    seen = true;
    redraw();
  }, { rootMargin: "300px" });
  watch.observe(place);
  return { element, redraw };
}

const AXIS = { gridcolor: "#e6e6e6", zeroline: false, automargin: true };
const CONFIG = { responsive: true, displaylogo: false, modeBarButtons: [["toImage", "resetScale2d"]] };
const BASE_LAYOUT = {
  font: { size: 13, family: "system-ui, DejaVu Sans, sans-serif", color: "#1b1f24" },
  margin: { t: 15, r: 15, b: 50, l: 60 },
  legend: { orientation: "h", x: 0, y: 1.03, yanchor: "bottom" },
  hovermode: "closest",
};

/** The figures of the overview, those that have data; each with its chooser. */
function overviewFigures() {
  return [paretoFigure(), seedsFigure(), curvesFigure(DATA.curves), searchFigure(), calibrationFigure()].filter(Boolean);
}

/** One figure of several that are alike, with the choice of which. */
function chooser(title, label, caption, names, build, more) {
  if (!names.length) return null;
  let chosen = 0;
  const drawn = figure(label, caption, () => build(chosen));
  const which = choice("Shown", names.map((name, at) => [at, name]), 0, (value) => { chosen = Number(value); drawn.redraw(); });
  const controls = el("div", { class: "controls" }, names.length > 1 ? which : null, more ? more(drawn.redraw) : null);
  return el("section", {}, el("h3", {}, title), controls, drawn.element);
}

const blockName = (block) => [block.task, block.benchmark, block.model].filter(Boolean).join(", ");

function paretoFigure() {
  const blocks = DATA.quality.filter((block) => block.points.length);
  let kind = Object.keys(DATA.costs)[0];
  const build = (at) => {
    const block = blocks[at];
    const form = DATA.metrics[block.metric];
    const paid = block.points.filter((point) => point.costs[kind] > 0);
    const traces = paid.map((point) => ({
      name: point.method, x: [point.costs[kind]], y: [point.mean * form.scale], mode: "markers",
      marker: { size: 11, color: look(point.method).colour, symbol: look(point.method).symbol + (point.fused && kind === "train_peak_memory_bytes" ? "-open" : "") },
      error_y: point.low === null ? undefined : {
        type: "data", symmetric: false, color: look(point.method).colour,
        array: [(point.high - point.mean) * form.scale], arrayminus: [(point.mean - point.low) * form.scale],
      },
    }));
    const lines = block.points.filter((point) => !(point.costs[kind] > 0)).map((point) => ({
      type: "line", xref: "paper", x0: 0, x1: 1, y0: point.mean * form.scale, y1: point.mean * form.scale,
      line: { color: "#777", dash: "dot", width: 1.5 }, label: { text: `${point.method} (untrained)`, textposition: "start", font: { size: 11 } },
    }));
    const xaxis = { ...AXIS, type: "log", title: { text: DATA.costs[kind] } };
    return { traces, layout: { xaxis, yaxis: { ...AXIS, title: { text: form.heading } }, shapes: lines } };
  };
  const costs = Object.entries(DATA.costs);
  return chooser(
    "Quality against cost", "Scatter plot of each method's score against its cost; the numbers stand in the tables main and cost",
    "Mean over seeds with its 95 % interval. Better lies up and to the left; for a loss, down and to the left. Open marks: trained at once with other runs, the memory is that of all of them.",
    blocks.map(blockName), build, (redraw) => choice("Cost", costs, kind, (value) => { kind = value; redraw(); }),
  );
}

function seedsFigure() {
  const blocks = DATA.quality;
  const rowOf = (method) => DATA.methods.indexOf(method);
  const offset = (at, count) => (count > 1 ? 0.44 * (at / (count - 1) - 0.5) : 0);
  const build = (at) => {
    const { task, benchmark, model, metric } = blocks[at];
    const form = DATA.metrics[metric];
    const runs = DATA.runs.filter((run) => run.task === task && run.model === model);
    const valueOf = (run) => run.results.find((result) => result.benchmark === benchmark)?.metrics[metric];
    const traces = DATA.methods.map((method) => {
      const points = runs.filter((run) => run.method === method && valueOf(run) !== undefined);
      return {
        // seeds below one another, so that equal values stay visible
        name: method, x: points.map((run) => valueOf(run) * form.scale), y: points.map((run, seed) => rowOf(method) + offset(seed, points.length)), mode: "markers",
        text: points.map((run) => `seed ${run.seed}`), customdata: points.map((run) => run.name), showlegend: false,
        marker: { size: 10, color: look(method).colour, symbol: look(method).symbol, opacity: 0.75 },
      };
    });
    const yaxis = { ...AXIS, tickvals: DATA.methods.map(rowOf), ticktext: DATA.methods, range: [DATA.methods.length - 0.5, -0.5] };
    return { traces, layout: { xaxis: { ...AXIS, title: { text: form.heading } }, yaxis } };
  };
  return chooser(
    "Every seed", "Strip plot of the score of every seed of each method; the numbers stand in the list of runs",
    "One mark a run; a click on it opens the run.", blocks.map(blockName), build,
  );
}

/** curves: {task, model, method, steps, mean, low, high, seeds}. */
function curvesFigure(curves) {
  const names = [...new Set(curves.map((curve) => [curve.task, curve.model].join(", ")))];
  const build = (at) => {
    const shown = curves.filter((curve) => [curve.task, curve.model].join(", ") === names[at]);
    const traces = shown.flatMap((curve) => {
      const { colour, dash } = look(curve.method);
      const band = { x: [...curve.steps, ...[...curve.steps].reverse()], y: [...curve.high, ...[...curve.low].reverse()] };
      const line = { name: curve.method, legendgroup: curve.method, x: curve.steps, y: curve.mean, mode: "lines", line: { color: colour, dash, width: 2 } };
      const area = { ...band, legendgroup: curve.method, fill: "toself", fillcolor: `${colour}22`, line: { width: 0 }, mode: "lines", hoverinfo: "skip", showlegend: false };
      return curve.seeds > 1 ? [area, line] : [line];
    });
    return { traces, layout: { xaxis: { ...AXIS, title: { text: "step" } }, yaxis: { ...AXIS, title: { text: "training loss" } } } };
  };
  return chooser(
    "Training loss", "Line plot of the training loss of each method by step",
    "Mean over seeds; the band reaches from the lowest to the highest seed.", names, build,
  );
}

function searchFigure() {
  const rate = "training.learning_rate";
  const tried = DATA.trials.filter((trial) => rate in trial.setting && trial.value !== null);
  const tasks = [...new Set(tried.map((trial) => trial.task))];
  const build = (at) => {
    const here = tried.filter((trial) => trial.task === tasks[at]);
    const metric = here[0].metric;
    const scale = DATA.metrics[metric] ? DATA.metrics[metric].scale : 1;
    const traces = DATA.methods.map((method) => {
      const points = here.filter((trial) => trial.method === method).sort((a, b) => a.setting[rate] - b.setting[rate]);
      return {
        name: method, x: points.map((trial) => trial.setting[rate]), y: points.map((trial) => trial.value * scale),
        text: points.map((trial) => (trial.chosen ? "chosen" : "")), mode: "lines+markers",
        line: { color: look(method).colour, dash: look(method).dash },
        marker: { symbol: look(method).symbol, size: points.map((trial) => (trial.chosen ? 15 : 8)) },
      };
    }).filter((trace) => trace.x.length);
    return { traces, layout: { xaxis: { ...AXIS, type: "log", title: { text: "learning rate" } }, yaxis: { ...AXIS, title: { text: `validation ${metric}` } } } };
  };
  return chooser(
    "Sensitivity to the learning rate", "Line plot of the validation score of each method by learning rate; the numbers stand in the table tuning",
    "On the validation split. The large mark is the setting that was chosen.", tasks, build,
  );
}

function calibrationFigure() {
  const names = [...new Set(DATA.calibration.map((one) => `${one.task}, ${one.benchmark}`))];
  const build = (at) => {
    const shown = DATA.calibration.filter((one) => `${one.task}, ${one.benchmark}` === names[at]);
    const traces = shown.map((one) => ({
      name: `${one.method} (error ${(100 * one.error).toFixed(1)} points)`, x: one.bins.map((bin) => bin[0]), y: one.bins.map((bin) => bin[1]),
      text: one.bins.map((bin) => `${bin[2]} examples`), mode: "lines+markers",
      line: { color: look(one.method).colour, dash: look(one.method).dash }, marker: { symbol: look(one.method).symbol, size: 8 },
    }));
    const diagonal = [{ type: "line", x0: 0, y0: 0, x1: 1, y1: 1, line: { color: "#777", dash: "dot" } }];
    const layout = { shapes: diagonal, xaxis: { ...AXIS, title: { text: "predicted probability" } }, yaxis: { ...AXIS, title: { text: "accuracy" } } };
    return { traces, layout };
  };
  return chooser(
    "Calibration", "Line plot of the accuracy of each method against the probability that it predicted",
    "All seeds together; in brackets the expected calibration error.", names, build,
  );
}
