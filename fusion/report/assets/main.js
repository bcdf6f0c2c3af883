// The page: its head and its sections.

function clipsSection() {
  const open = (id, byUser) => {
    view.open(id);
    table.choose(id);
    if (byUser) document.getElementById("viewer").scrollIntoView({ block: "nearest" });
  };
  const table = clipTable(open);
  const neighbour = (step) => {
    const order = table.order();
    if (!order.length) return;
    const place = order.indexOf(document.querySelector(".clips [aria-current]")?.dataset.clip);
    open(order[(Math.max(place, step < 0 ? 0 : -1) + step + order.length) % order.length], false);
  };
  const view = viewer(neighbour);
  const node = section("clips", "Clips", "Choose a clip to see its traces. Sort by a column to find where the model fails.", table.node, view.node);
  return { node, view, start: () => open(contents.clips[0].id, false) };
}

function head(sections, repaint) {
  const { base } = contents.standing;
  const links = sections.map((node) => element("li", {}, element("a", { href: `#${node.id}` }, node.querySelector("h2").textContent)));
  const rows = contents.standing.rows.filter((row) => row.is_model).slice(1).map((row) => row.title);
  return [
    element("div", { class: "masthead" },
      element("div", {}, element("p", { class: "eyebrow" }, `sage-va ${contents.version} · ${contents.made}`),
        element("h1", {}, base, rows.length ? ` beside ${rows.join(", ")}` : "")), themeButton(repaint)),
    ...notices(),
    element("nav", { "aria-label": "Sections" }, element("ul", {}, links)),
  ];
}

const clips = clipsSection();
const sections = [headline(), comparison(), clips.node, reliability(), robustness(), recordings(), learning(), provenance(), limits()].filter(Boolean);
document.getElementById("top").append(...head(sections, () => clips.view.repaint()));
document.getElementById("main").append(...sections);
clips.start();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => clips.view.repaint());
