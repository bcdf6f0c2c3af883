// The page of `sage-va view`: the clips, and the recording of the open one above its traces.

function numberOf(id) {
  return contents.clips.findIndex((row) => row.id === id);
}

/** Adds recording, face, moments and labels to the view of a clip; see `clipView`. */
function withRecording(parts) {
  const { clip, row, ends, follow, state } = parts;
  const number = numberOf(clip.id);
  const editor = labelEditor({ ...parts, number });
  const moments = momentsOf(parts);
  const faces = facesOf({ number });
  const player = playerOf({ number, id: clip.id, ends, onTime: follow, onFrame: faces.show });
  const move = (steps) => parts.moveTo(state.index + steps);
  const second = Math.max(1, Math.round(1 / clip.step));
  const key = (name) => element("kbd", {}, name);
  parts.stack.setAttribute("data-clip", String(numberOf(row.id)));
  return {
    above: [element("div", { class: "stage" }, player.node, faces.node)],
    below: [editor.node],
    buttons: moments.buttons,
    lanes: moments.lane ? [moments.lane] : [],
    keys: {
      " ": player.toggle, k: player.pause, K: player.pause, l: player.forwards, L: player.forwards, j: player.backwards, J: player.backwards,
      ArrowLeft: (event) => move(event.shiftKey ? -second : -1), ArrowRight: (event) => move(event.shiftKey ? second : 1),
      ...moments.keys, ...editor.keys,
    },
    hints: [" ", key("Space"), " plays and pauses, ", key("J"), " ", key("K"), " ", key("L"), " play backwards, pause and play, faster when pressed again; ",
      key("Shift ←→"), " one second; ", ...(moments.buttons.length ? [key("g"), " gate switches; "] : []), key("d"), " draws, ", key("u"), " undoes, ", key("s"), " saves labels."],
    moved(time) {
      player.seek(time);
      if (!player.hasPictures()) faces.show(time, null);
    },
    drawn: editor.drawn,
    pointer: editor.pointer,
    isQuiet: player.isRunning,
    started() {
      editor.start();
      player.open();
      faces.show(state.time, null);
      faces.open();
    },
    close() {
      player.close();
      faces.close();
    },
  };
}

function clipsOf() {
  let wanted = null;
  const message = element("p", { class: "form-message", role: "alert" });

  async function open(id, byUser) {
    wanted = id;
    table.choose(id);
    if (!contents.traces[id]) message.textContent = `Opening ${id} …`;
    try {
      contents.traces[id] ||= await loaded(`clips/${numberOf(id)}`);
      if (wanted !== id) return;
      message.textContent = "";
      view.open(id);
      if (!byUser) return;
      view.node.scrollIntoView({ block: "start" });
      view.node.querySelector(".scrubber").focus({ preventScroll: true }); // so that Space plays, and opens nothing again
    } catch (error) {
      if (wanted === id) message.textContent = `${id} cannot be opened: ${error.message}`;
    }
  }

  const table = clipTable(open);
  const view = viewer((step) => {
    const order = table.order();
    if (order.length) open(order[(Math.max(order.indexOf(wanted), step < 0 ? 0 : -1) + step + order.length) % order.length], false);
  }, withRecording);
  return { message, table, view, open };
}

function head(repaint) {
  return [
    element("div", { class: "masthead" },
      element("div", {}, element("p", { class: "eyebrow" }, `sage-va ${contents.version} · ${contents.split} clips`), element("h1", {}, contents.standing.base)), themeButton(repaint)),
    ...notices(),
  ];
}

const clips = clipsOf();
document.getElementById("top").append(...head(() => clips.view.repaint()));
document.getElementById("main").append(
  element("section", { class: "open-clip", "aria-labelledby": "open-title" }, element("h2", { class: "sr", id: "open-title" }, "Recording and traces"), clips.message, clips.view.node),
  section("clips", "Clips", "Choose a clip to open it above.", clips.table.node));
clips.open(contents.clips[0].id, false);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => clips.view.repaint());
