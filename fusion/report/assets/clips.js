// The table of clips: sorts by any column, filters by name, opens the traces of a clip.

const COLUMNS = [
  { title: "clip", value: (row) => row.id, show: (row) => row.id },
  { title: "CCC mean", value: (row) => row.ccc.mean, show: (row) => number(row.ccc.mean), meter: true },
  { title: "valence", value: (row) => row.ccc.valence, show: (row) => number(row.ccc.valence) },
  { title: "arousal", value: (row) => row.ccc.arousal, show: (row) => number(row.ccc.arousal) },
  { title: "RMSE", value: (row) => row.rmse.mean, show: (row) => number(row.rmse.mean) },
  { title: "seconds", value: (row) => row.seconds, show: (row) => number(row.seconds, 0) },
  { title: "labels", value: (row) => row.labels, show: (row) => count(row.labels) },
  ...contents.streams.map((stream, m) => ({
    title: `${stream.label} valid`,
    wide: stream.label.length > 10,
    value: (row) => row.valid[m],
    show: (row) => (known(row.valid[m]) ? `${Math.round(row.valid[m] * 100)} %` : "–"),
  })),
];

function clipTable(open) {
  const state = { column: 0, falling: false, text: "", chosen: null };
  const body = element("tbody");
  const status = element("span", { role: "status" });
  const heads = COLUMNS.map((column, k) => element("th", { scope: "col", class: column.wide ? "wide" : null },
    element("button", { class: "sort", type: "button", onclick: () => sortBy(k) }, column.title)));

  function sortBy(column) {
    state.falling = state.column === column ? !state.falling : false;
    state.column = column;
    render();
  }

  function rows() {
    const { value } = COLUMNS[state.column];
    const wanted = state.text.trim().toLowerCase();
    const sign = state.falling ? -1 : 1;
    return contents.clips.filter((row) => row.id.toLowerCase().includes(wanted)).sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (typeof x === "string") return sign * x.localeCompare(y, "en", { numeric: true });
      if (known(x) !== known(y)) return known(x) ? -1 : 1; // what is not defined comes last either way
      return known(x) ? sign * (x - y) : 0;
    });
  }

  function render() {
    const shown = rows();
    body.replaceChildren(...shown.map(rowOf));
    status.textContent = `${count(shown.length)} of ${plural(contents.clips.length, "clip")}`;
    heads.forEach((head, k) => {
      if (k === state.column) head.setAttribute("aria-sort", state.falling ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
  }

  function rowOf(row) {
    const pick = (event) => { event.stopPropagation(); open(row.id, true); };
    const cells = COLUMNS.slice(1).map((column) => element("td", {}, column.meter ? meter(row.ccc.mean) : null, column.show(row)));
    return element("tr", { onclick: pick, "aria-current": row.id === state.chosen ? "true" : null, "data-clip": row.id },
      element("th", { scope: "row" }, element("button", { class: "pick", type: "button", onclick: pick }, row.id)), cells);
  }

  function meter(value) {
    const width = `${Math.min(Math.max(value || 0, 0), 1) * 100}%`;
    return element("span", { class: "meter", "aria-hidden": "true" }, element("i", { style: { width } }));
  }

  const filter = element("input", { type: "search", placeholder: "Filter by name", "aria-label": "Filter clips by name",
    oninput: (event) => { state.text = event.target.value; render(); } });
  const table = element("table", { class: "clips" }, element("caption", { class: "sr" }, "Clips with their scores"),
    element("thead", {}, element("tr", {}, heads)), body);
  render();
  return {
    node: element("div", {}, element("div", { class: "tools" }, filter, status),
      element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of clips" }, table)),
    order: () => rows().map((row) => row.id),
    choose(id) {
      state.chosen = id;
      for (const row of body.children) row.toggleAttribute("aria-current", false);
      for (const row of body.children) if (row.dataset.clip === id) row.setAttribute("aria-current", "true");
    },
  };
}
