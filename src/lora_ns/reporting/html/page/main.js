/** The page that the address names: #/, #/runs, #/run/NAME, #/compare/NAME/NAME. */
async function pageOf(hash) {
  const [kind, ...names] = hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
  if (kind === "runs") return { kind: "runs", element: runsPage() };
  if (kind === "run") return { kind: "runs", element: await runPage(names[0]) };
  if (kind === "compare") return { kind: "compare", element: await comparePage(names[0], names[1]) };
  return { kind: "overview", element: overviewPage() };
}

let turn = 0;

async function show(byUser) {
  const own = ++turn;
  const { kind, element } = await pageOf(location.hash);
  if (own !== turn) return; // the reader has gone on meanwhile
  const main = document.getElementById("content");
  main.replaceChildren(element);
  main.dataset.shown = location.hash || "#/";
  document.querySelectorAll("nav a").forEach((link) => {
    if (link.dataset.page === kind) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  });
  const heading = main.querySelector("h1").textContent;
  document.title = heading === DATA.title ? DATA.title : `${heading} – ${DATA.title}`;
  if (byUser) {
    scrollTo(0, 0);
    main.focus({ preventScroll: true });
    say(heading);
  }
}

// the address names the page, so the skip link must not change it
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  document.getElementById("content").focus();
});
window.addEventListener("hashchange", () => show(true));
if ("DecompressionStream" in window) show(false);
else document.getElementById("content").append(el("p", {}, "This browser is too old to unpack the page (it lacks DecompressionStream)."));
