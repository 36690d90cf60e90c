/** What the page opens with. */
const DATA = JSON.parse(document.getElementById("overview").textContent);

const RUN_NUMBER = new Map(DATA.runs.map((run, number) => [run.name, number]));
const EXAM_NAMES = Object.keys(DATA.exams);
const unpacked = new Map();

/** The text of a packed part; each is unpacked once. */
function unpack(name) {
  if (!unpacked.has(name)) unpacked.set(name, inflate(document.getElementById(`packed-${name}`).textContent));
  return unpacked.get(name);
}

async function inflate(base64) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

/** Config, curve, answers and provenance of a run. */
async function detailsOf(run) {
  return JSON.parse(await unpack(`run-${RUN_NUMBER.get(run.name)}`));
}

/** The rows of an evaluation, and the questions that are shown. */
async function examOf(evaluation) {
  return JSON.parse(await unpack(`exam-${DATA.exams[evaluation]}`));
}

/** 1 right, 0 wrong, between: partly; null where rows are not right or wrong by themselves. */
function verdictOf(value) {
  if (value === null || value === undefined) return null;
  if (value === 1) return "right";
  return value === 0 ? "wrong" : "partly right";
}

/** Whether the rows of an evaluation are right or wrong, rather than measured. */
function isJudged(answered) {
  return Boolean(answered.right) && answered.right.every((value) => value === null || (value >= 0 && value <= 1));
}

const linkTo = (run) => `#/run/${encodeURIComponent(run.name)}`;
const methodAndSeed = (run) => `${run.method}, seed ${run.seed}`;
