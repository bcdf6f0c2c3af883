// The player of a clip: a video or sound on the clock of the traces.

const FASTEST = 4;
const POLL_MS = 600;
const INTO_FRAME_S = 0.001; // a seek to the very edge of a frame may show the one before

async function loaded(place, options = {}) {
  const response = await fetch(place, { credentials: "same-origin", ...options });
  if (!response.ok) throw new Error((await response.text()).slice(0, 500));
  return response.json();
}

function sent(place, value) {
  return loaded(place, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(value) });
}

/**
 * The recording of a clip. `onTime(time)`: it has moved by itself or by its own controls; `onFrame(time, media)`: another
 * picture is shown. Times are those of the clip.
 */
function playerOf({ number: place, id, ends, onTime, onFrame }) {
  const note = element("p", { class: "screen-note", role: "status" }, "Opening the recording …");
  const screen = element("div", { class: "screen" }, note);
  const state = { media: null, origin: 0, busy: false, wanted: ends[0], backwards: 0, alive: true, converted: false };
  const now = () => state.media.currentTime + state.origin;

  function say(text) {
    note.textContent = text;
    note.hidden = !text;
  }

  async function open() {
    try {
      const medium = await loaded(`clips/${place}/medium`);
      if (!state.alive) return;
      if (medium.state === "ready") show(medium);
      else if (medium.state === "working") {
        say(`Converting the recording, since browsers cannot play it: ${Math.round(medium.share * 100)} %`);
        setTimeout(open, POLL_MS);
      } else say(medium.state === "none" ? "There is no recording of this clip." : `The recording cannot be shown: ${medium.reason}`);
    } catch (error) {
      if (state.alive) say(`The recording cannot be loaded: ${error.message}`);
    }
  }

  function show({ kind, origin_s: origin, converted }) {
    state.origin = origin;
    state.converted = converted;
    const media = element(kind, { controls: true, preload: "auto", playsinline: true, "aria-label": `Recording of ${id}`,
      src: `clips/${place}/video${converted ? "?converted" : ""}` });
    media.addEventListener("loadedmetadata", () => { say(""); apply(); });
    media.addEventListener("seeking", () => { if (!state.busy && media.readyState) onTime(now()); });
    media.addEventListener("seeked", settled);
    media.addEventListener("error", failed);
    media.addEventListener("play", () => { state.backwards = 0; run(); });
    if (state.media) state.media.remove();
    state.media = media;
    screen.classList.toggle("sound", kind === "audio");
    screen.append(media);
    watch(media);
  }

  /** The browser cannot play the file after all: asks for a converted copy, once. */
  async function failed() {
    if (!state.alive) return;
    if (state.converted) {
      say("The browser cannot play this recording.");
      return;
    }
    state.media.remove();
    state.media = null;
    await sent(`clips/${place}/medium`, {}).catch(() => null);
    open();
  }

  function apply() {
    if (state.wanted === null || !state.media?.readyState) return;
    state.busy = true;
    state.media.currentTime = Math.max(0, state.wanted - state.origin + INTO_FRAME_S);
    state.wanted = null;
  }

  function settled() {
    state.busy = false;
    apply();
    if (!state.busy) onFrame(now(), state.media);
  }

  function seek(time) {
    state.wanted = time;
    if (!state.busy) apply();
  }

  /** Follows the pictures as they are shown; `mediaTime` is the presentation time of the one on the screen. */
  function watch(media) {
    if (media.localName !== "video" || !media.requestVideoFrameCallback) return;
    const shown = (_, { mediaTime }) => {
      if (state.media !== media) return;
      const time = mediaTime + state.origin;
      onFrame(time, media);
      if (!state.busy && !media.paused) moved(time);
      media.requestVideoFrameCallback(shown);
    };
    media.requestVideoFrameCallback(shown);
  }

  /** Follows sound, which has no pictures to follow, and video where a browser does not report its pictures. */
  function run() {
    const { media } = state;
    if (!media || media.paused || media.requestVideoFrameCallback && media.localName === "video") return;
    if (!state.busy) {
      moved(now());
      onFrame(now(), media);
    }
    requestAnimationFrame(run);
  }

  function moved(time) {
    onTime(time);
    if (time > ends[1] + 0.5) state.media.pause(); // the clip is a cut of a longer recording
  }

  function pause() {
    state.backwards = 0;
    if (state.media) {
      state.media.pause();
      state.media.playbackRate = 1;
    }
  }

  function play(rate) {
    state.backwards = 0;
    state.media.playbackRate = rate;
    if (now() >= ends[1]) seek(ends[0]);
    state.media.play().catch(() => null);
  }

  function toggle() {
    if (!state.media) return;
    if (state.media.paused && !state.backwards) play(1);
    else pause();
  }

  function forwards() {
    if (!state.media) return;
    const { paused, playbackRate } = state.media;
    play(paused ? 1 : Math.min(FASTEST, playbackRate * 2));
  }

  /** Plays backwards, which no browser does by itself: seeks to one picture after the other. */
  function backwards() {
    if (!state.media) return;
    const rate = state.backwards ? Math.min(FASTEST, state.backwards * 2) : 1;
    pause();
    state.backwards = rate;
    let last = performance.now();
    const step = (instant) => {
      if (state.backwards !== rate || !state.alive || !state.media) return;
      if (!state.busy) {
        const time = now() - (rate * Math.max(instant - last, 0)) / 1000;
        last = instant;
        seek(Math.max(time, ends[0]));
        onTime(Math.max(time, ends[0]));
        if (time <= ends[0]) state.backwards = 0;
      }
      requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }

  return {
    node: screen,
    open,
    seek(time) {
      state.backwards = 0;
      seek(time);
    },
    toggle, pause, forwards, backwards,
    hasPictures: () => state.media?.localName === "video",
    isRunning: () => Boolean(state.media && (!state.media.paused || state.backwards)),
    close() {
      state.alive = false;
      if (!state.media) return;
      const { media } = state;
      state.media = null;
      media.pause();
      media.removeAttribute("src");
      media.load();
    },
  };
}
