// The sections of the page, from the headline to the limits.

const SMALL_P = 0.05;

const THEMES = ["auto", "light", "dark"];

/** Makes the button for light and dark; `repaint` draws anew what has colours of its own. */
function themeButton(repaint) {
  let theme = 0;
  const toggle = element("button", { class: "button", type: "button", onclick: () => {
    theme = (theme + 1) % THEMES.length;
    if (THEMES[theme] === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = THEMES[theme];
    toggle.textContent = `Colours: ${THEMES[theme]}`;
    repaint();
  } }, `Colours: ${THEMES[theme]}`);
  return toggle;
}

function section(id, title, lead, ...children) {
  const chip = contents.random_weights.length && !["provenance", "limits"].includes(id) ? element("span", { class: "chip" }, "untrained encoders") : null;
  return element("section", { id, "aria-labelledby": `${id}-title` },
    element("div", { class: "section-head" }, element("h2", { id: `${id}-title` }, title), chip),
    lead ? element("p", { class: "lead" }, lead) : null, ...children);
}

/** The notices that stand above all results: terms of use, untrained encoders, clips that decided something. */
function notices() {
  const lines = [];
  const notice = (strong, text) => element("p", { class: "notice", role: "note" }, element("strong", {}, strong), text);
  if (contents.restricted) lines.push(notice("Restricted data. ", "This page shows data under terms of use: do not pass it on to people without a right to that data."));
  if (contents.random_weights.length) lines.push(notice("Untrained encoders (random weights): ",
    `${contents.random_weights.join(", ")}. The results show how the parts work together, not how well affect can be read.`));
  for (const caution of contents.cautions) lines.push(notice("Caution. ", `These results are ${caution}.`));
  return lines;
}

function headline() {
  const { base, rows } = contents.standing;
  const [row, ...others] = rows;
  const scale = scaleOf(rows.filter((one) => one.is_model).flatMap((one) => Object.values(one.raw)));
  const wide = [Math.min(0, scale[0]), 1];
  const targets = ["valence", "arousal"].map((name) => element("div", { class: "target" }, element("dt", {}, name),
    element("dd", {}, track(row.raw[name], wide, "blue", 0), element("span", {}, `${number(row.raw[name].value)} ${interval(row.raw[name])}`))));
  const several = row.num_runs > 1 ? `Mean over ${row.num_runs} runs, ± ${number(row.raw.mean.std)} between them; ` : "";
  const folds = contents.num_folds ? `, ${contents.num_folds} folds pooled` : "";
  const more = [`Smoothed: ${number(row.smoothed.mean.value)}`];
  if (row.face_only) more.push(`frames with a face only: ${number(row.face_only.mean)}`);
  return section("score", "Score", null, element("div", { class: "headline" },
    element("div", {},
      element("div", { class: "score" }, element("b", {}, number(row.raw.mean.value)), element("span", {}, `mean CCC, 95 % interval ${interval(row.raw.mean)}`)),
      element("dl", { class: "targets" }, targets),
      element("p", { class: "note" }, `${several}${plural(contents.standing.num_labels, "label")} of ${plural(contents.standing.num_clips, "clip")} (${contents.split}${folds}). ${more.join("; ")}.`)),
    element("div", {}, element("h3", {}, others.length ? `${base} against the others` : "Nothing to compare with"),
      others.length ? element("ul", { class: "verdicts" }, others.map(verdict)) : element("p", { class: "note" }, "Name further runs: sage-va report RUN RUN …"),
      others.length && contents.standing.too_few ? element("p", { class: "note" }, "So few clips decide nothing, whatever their intervals.") : null,
      others.some((one) => !one.is_model) ? element("p", { class: "note" }, "“Only”: the estimate of one stream that the gate learns from, in the same network; not a model trained on that stream by itself.") : null)));
}

/** True if a difference is significant after Holm's correction, on enough clips. */
function isSure(lead) {
  return !contents.standing.too_few && known(lead.low) && known(lead.p_holm) && lead.p_holm < SMALL_P;
}

function verdict(row) {
  if (!row.lead || !known(row.lead.mean.value)) {
    return element("li", {}, element("span", { class: "mark", "aria-hidden": "true" }, "·"), element("span", {}, `Not compared with ${row.title}`,
      element("small", {}, row.not_compared || "no common score")));
  }
  const { mean } = row.lead;
  const kind = contents.standing.too_few ? "open" : !isSure(mean) ? "even" : mean.value > 0 ? "ahead" : "behind";
  const words = { ahead: "Beats", behind: "Is behind", even: "No clear difference to", open: "Undecided against" }[kind];
  const mark = { ahead: "▲", behind: "▼", even: "≈", open: "?" }[kind];
  const gain = `${signed(mean.value)} ${interval(mean, 3, signed)}`;
  return element("li", { class: kind }, element("span", { class: "mark", "aria-hidden": "true" }, mark),
    element("span", {}, `${words} ${row.title}: `, element("span", { class: "gain" }, gain)));
}

function comparison() {
  const { base, rows } = contents.standing;
  if (rows.length < 2) return null;
  const names = ["mean", "valence", "arousal"];
  const scale = scaleOf(rows.flatMap((row) => names.map((name) => row.raw[name])));
  const leads = rows.map((row) => row.lead && row.lead.mean).filter(Boolean);
  const reach = Math.max(0.01, ...scaleOf(leads).map(Math.abs));
  const cell = (label, node, text, small) => element("td", { role: "cell", "data-label": label },
    element("div", { class: "cell" }, node, element("span", {}, text, small ? element("br") : null, small ? element("small", {}, small) : null)));
  const body = rows.map((row) => {
    const colour = row.title === base ? "blue" : "grey";
    const lead = row.lead && row.lead.mean;
    const sure = lead && isSure(lead);
    const runs = row.num_runs > 1 ? `${row.num_runs} runs` : null;
    return element("tr", { role: "row" },
      element("th", { scope: "row", role: "rowheader" }, row.title, runs ? element("br") : null, runs ? element("small", {}, runs) : null),
      names.map((name) => cell(name, track(row.raw[name], scale, colour), number(row.raw[name].value), interval(row.raw[name]))),
      lead
        ? cell("lead", track(lead, [-reach, reach], !sure ? "grey" : lead.value > 0 ? "green" : "orange", 0), signed(lead.value) + (sure ? " *" : ""), interval(lead, 3, signed))
        : element("td", { role: "cell", "data-label": "lead" }, row.not_compared || (row.title === base ? "–" : "–")));
  });
  const heads = ["model", "CCC mean", "valence", "arousal", `lead of ${base}, mean`];
  const columns = heads.map((head) => element("th", { scope: "col", role: "columnheader" }, head));
  return section("comparison", "Comparison", `Each score with its 95 % interval by bootstrap over clips, and the lead of ${base}: the paired difference, for which each draw takes the same clips on both sides.`,
    element("div", { class: "scroll models-scroll", tabindex: 0, role: "region", "aria-label": "Models side by side" }, element("table", { class: "models", role: "table" },
      element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, columns)), element("tbody", { role: "rowgroup" }, body))),
    element("p", { class: "note" }, `${contents.standing.too_few ? "Too few clips to decide whether differences are significant." : "* p < 0.05 by the same bootstrap, after Holm's correction for all rows."} Scores are raw; runs of one model are averaged before they are subtracted. “Only” rows are the estimates of single streams inside the first model.`));
}

function reliability() {
  if (!contents.calibration.length) return null;
  const panels = contents.calibration.map((stream, m) => {
    const points = stream.reliability.map((value, k) => [value, stream.target[k]]).filter(([value]) => known(value));
    const most = Math.max(1, ...stream.count);
    const colour = STREAM_COLOURS[m % STREAM_COLOURS.length];
    const label = `Calibration of ${stream.label}: expected calibration error ${number(stream.ece)}, rank correlation of 1 − reliability with the error ${number(stream.spearman, 2)}.`;
    return element("div", {}, element("h3", {}, stream.label), lineChart({ label, height: 260, x: [0, 1], y: [0, 1], xTitle: "estimated reliability", yTitle: "deserved by the error", diagonal: true,
      lines: [{ points, colour, dots: true }], bars: stream.count.map((each, k) => ({ at: k / stream.count.length, width: 1 / stream.count.length, height: each / most, colour })) }),
      element("p", { class: "note" }, `ECE ${number(stream.ece)}; Spearman(1 − r, error) ${number(stream.spearman, 2)}; deserved: exp(−error / ${number(stream.sigma, 2)}).`));
  });
  const rows = contents.calibration.flatMap((stream) => stream.count.map((each, k) => [`${stream.label}, ${number(k / stream.count.length, 1)} to ${number((k + 1) / stream.count.length, 1)}`,
    number(stream.reliability[k]), number(stream.target[k]), count(each)]));
  return section("reliability", "Is the reliability calibrated?", "On the dashed line, the gate's estimate is what the errors of the stream deserve. Below it, the estimate is too high. Bars: how many steps fall into each part.",
    element("div", { class: "panels" }, panels), numbersBelow("Calibration as a table", ["stream, bin", "reliability", "deserved", "steps"], rows));
}

function robustness() {
  const runs = contents.robustness;
  if (!runs.length) return null;
  const kinds = Object.keys(runs[0].kinds);
  const values = runs.flatMap((run) => Object.values(run.kinds).flatMap((kind) => kind.ccc || [])).filter(known);
  const low = Math.min(0, ...values);
  const high = Math.min(1, Math.max(...values) * 1.05);
  const style = (k) => ({ colour: COLOURS[k % COLOURS.length], dash: DASHES[Math.floor(k / COLOURS.length) % DASHES.length] });
  const panels = kinds.map((name) => {
    const lines = runs.map((run, k) => ({ ...style(k), points: run.kinds[name].ccc ? run.strengths.map((strength, s) => [strength, run.kinds[name].ccc[s]]) : [], dots: true }));
    const ends = runs.filter((run) => run.kinds[name].ccc).map((run) => `${run.title} from ${number(run.kinds[name].ccc[0])} to ${number(run.kinds[name].ccc.at(-1))}`);
    return element("div", {}, element("h3", {}, name.replaceAll("_", " ")), lineChart({ label: `Mean CCC by strength of ${name}: ${ends.join("; ") || "modality not taken"}.`, height: 160, x: [0, 1], y: [low, high], xTicks: 4, xTitle: "strength", lines }),
      element("p", { class: "note" }, runs[0].kinds[name].means));
  });
  const rows = runs.flatMap((run) => kinds.filter((name) => run.kinds[name].ccc).map((name) => [`${run.title}, ${name}`, ...run.kinds[name].ccc.map((value) => number(value))]));
  return section("robustness", "Where it breaks", "Mean CCC as one modality is masked, buried in noise, frozen or delayed more and more.",
    legend(runs.map((run, k) => ({ title: run.title, ...style(k) }))), element("div", { class: "panels small" }, panels),
    numbersBelow("Robustness as a table", ["run, corruption", ...runs[0].strengths.map(tickText)], rows));
}

function recordings() {
  const runs = contents.recordings;
  if (!runs.length) return null;
  const losses = runs.flatMap((run) => run.kinds.map((kind) => kind.loss));
  const reach = Math.max(0.01, ...scaleOf(losses).map(Math.abs));
  const labels = Object.keys(runs[0].clean.valid);
  const gate = (score) => labels.map((label) => (score.reliability ? number(score.reliability[label], 2) : "–"));
  const table = (run) => {
    const cell = (label, ...parts) => element("td", { role: "cell", "data-label": label }, element("div", { class: "cell" }, ...parts));
    const plain = (label, text) => element("td", { role: "cell", "data-label": label }, text);
    const row = (title, small, ...cells) => element("tr", { role: "row" }, element("th", { scope: "row", role: "rowheader" }, title,
      small ? element("br") : null, small ? element("small", {}, small) : null), cells);
    const rows = [row("as recorded", null, plain("CCC", number(run.clean.ccc.mean)), plain("change", "–"), ...gate(run.clean).map((text, m) => plain(labels[m], text))),
      ...run.kinds.map((kind) => row(kind.name, kind.means, plain("CCC", number(kind.ccc.mean)),
        cell("change", track(kind.loss, [-reach, reach], "grey", 0), element("span", {}, signed(kind.loss.value), element("br"), element("small", {}, interval(kind.loss, 2, signed)))),
        ...gate(kind).map((text, m) => plain(labels[m], text))))];
    const heads = ["recordings", "CCC mean", "change", ...labels.map((label) => `reliability, ${label}`)];
    return element("div", {}, element("h3", {}, run.title), element("div", { class: "scroll models-scroll", tabindex: 0, role: "region", "aria-label": `Corrupted recordings, ${run.title}` },
      element("table", { class: "models", role: "table" }, element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, heads.map((head) => element("th", { scope: "col", role: "columnheader" }, head)))),
        element("tbody", { role: "rowgroup" }, rows))));
  };
  return section("recordings", "Recordings that go wrong", "The same clips after their recordings were corrupted: the score, its paired change with 95 % interval, and the mean reliability of each stream.",
    element("div", { class: "tables" }, runs.map(table)));
}

function learning() {
  const runs = contents.learning;
  if (!runs.length) return null;
  const models = [...new Set(runs.map((run) => run.model))];
  const colour = (run) => COLOURS[models.indexOf(run.model) % COLOURS.length];
  const dash = (run) => DASHES[Math.floor(models.indexOf(run.model) / COLOURS.length) % DASHES.length];
  const last = Math.max(1, ...runs.flatMap((run) => run.epoch));
  const best = (run) => run.val.reduce((top, value, k) => (known(value) && (top < 0 || value > run.val[top]) ? k : top), -1);
  const chart = (name, title, label) => {
    const values = runs.flatMap((run) => run[name]).filter(known);
    const [low, high] = scaleOf(values.map((value) => ({ value })));
    const lines = runs.map((run) => ({ colour: colour(run), dash: dash(run), faint: runs.length > 8, points: run.epoch.map((epoch, k) => [epoch, run[name][k]]) }));
    const dots = name === "val" ? runs.filter((run) => best(run) >= 0).map((run) => ({ colour: colour(run), dots: true, points: [[run.epoch[best(run)], run.val[best(run)]]] })) : [];
    return element("div", {}, element("h3", {}, title), lineChart({ label, x: [0, last], y: [low, high], xTitle: "epoch", lines: [...lines, ...dots] }));
  };
  const tops = runs.filter((run) => best(run) >= 0).map((run) => `${run.model} (${run.run}) ${number(run.val[best(run)])} at epoch ${run.epoch[best(run)]}`);
  const rows = runs.map((run) => [`${run.model}, ${run.run}`, count(run.epoch.length), best(run) >= 0 ? number(run.val[best(run)]) : "–", best(run) >= 0 ? String(run.epoch[best(run)]) : "–", number(run.loss.at(-1))]);
  return section("learning", "How it learned", "Validation CCC and training loss by epoch; the dot is the epoch that was kept.",
    legend(models.map((model) => ({ title: model, colour: colour({ model }), dash: dash({ model }) }))),
    element("div", { class: "panels" }, chart("val", "Validation CCC, mean", `Validation CCC by epoch. Best: ${tops.join("; ")}.`), chart("loss", "Training loss", `Training loss by epoch; at the end ${runs.map((run) => `${run.model} ${number(run.loss.at(-1))}`).join("; ")}.`)),
    numbersBelow("Learning as a table", ["run", "epochs", "best validation CCC", "at epoch", "last loss"], rows));
}

function facts(pairs) {
  return element("dl", { class: "facts" }, pairs.filter(([, value]) => value !== null && value !== undefined && value !== "").flatMap(([term, value]) => [element("dt", {}, term), element("dd", {}, String(value))]));
}

function provenance() {
  return section("provenance", "Where it comes from", null, ...contents.provenance.map((origin, k) => {
    const git = origin.git ? `${origin.git.commit.slice(0, 12)}${origin.git.dirty ? ", changed since" : ""}` : null;
    const clips = Object.entries(origin.clips).map(([role, num]) => `${count(num)} ${role}`).join(", ");
    return element("details", { open: k === 0 }, element("summary", {}, origin.title),
      facts([["runs", origin.runs.join(", ")], ["seeds", origin.seeds.join(", ")], ["cache", origin.cache], ["labels", origin.labels], ["labels, SHA-256", origin.labels_sha256],
        ["licence of the data", (origin.licence || "not stated") + (origin.restricted ? "; restricted, not to be passed on" : "")], ["clips", clips], ["smoothing", origin.smoothing_s.map((width) => `${width} s`).join(", ")],
        ["commit of the working folder", git], ["trained with", `sage-va ${origin.versions["sage-va"] || "?"}, torch ${origin.versions.torch || "?"}, Python ${origin.versions.python || "?"}`],
        ...origin.streams.map((stream) => [stream.name, [stream.encoder, stream.weights === "random" ? "UNTRAINED (random weights)" : stream.weights, `${stream.dim} values per step`, stream.weights_sha256 && `weights ${stream.weights_sha256.slice(0, 12)}`].filter(Boolean).join("; ")])]),
      numbersBelow("Settings", ["key", "value"], Object.entries(origin.config)), numbersBelow("Versions", ["package", "version"], Object.entries(origin.versions)));
  }));
}

function limits() {
  return section("limits", "Limits", null, element("ul", { class: "limits" }, contents.limits.map((line) => element("li", {}, line))));
}
