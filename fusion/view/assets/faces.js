// The face of a clip: cut out of the picture that the video shows, or one of the ready-made crops.

const MOST_IMAGES = 120; // of ready-made crops, kept
const CROP_SIDE = 224;

function facesOf({ number: place }) {
  const canvas = element("canvas", { width: CROP_SIDE, height: CROP_SIDE, role: "img", "aria-label": "Face crop: what the visual encoder was shown" });
  const note = element("figcaption", { role: "status" }, "face crop");
  const node = element("figure", { class: "face", hidden: true }, canvas, note);
  const pen = canvas.getContext("2d");
  const images = new Map();
  const state = { crops: null, alive: true, last: null, image: null };

  async function open() {
    let crops = { state: "none" };
    try {
      crops = await loaded(`clips/${place}/crops`);
    } catch (error) {
      crops = { state: "failed", reason: error.message };
    }
    if (!state.alive) return;
    node.hidden = crops.state === "none";
    if (crops.state === "working") {
      note.textContent = "Looking for the face …";
      setTimeout(open, POLL_MS * 2);
    } else if (crops.state === "failed") note.textContent = `No face crop: ${crops.reason}`;
    else if (crops.state !== "none") {
      state.crops = crops;
      if (state.last) show(...state.last);
    }
  }

  /** The place of the image at a time: the last one that began by then. */
  function indexAt(times, time) {
    let [low, high] = [0, times.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (times[middle] <= time + 0.002) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  function clear(text) {
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, CROP_SIDE, CROP_SIDE);
    note.textContent = text;
  }

  function show(time, video) {
    state.last = [time, video];
    if (!state.crops) return;
    const { times_s: times } = state.crops;
    const index = indexAt(times, time);
    const late = index < 0 ? Infinity : time - times[index];
    if (state.crops.state === "images") showImage(index, late);
    else showPart(index < 0 ? null : state.crops.matrices[index], video);
  }

  function showPart(matrix, video) {
    clear(matrix ? "face crop" : "no face here");
    if (!matrix || !video?.videoWidth) return;
    const scale = CROP_SIDE / state.crops.side;
    pen.setTransform(...matrix.map((value) => value * scale));
    pen.drawImage(video, 0, 0, state.crops.width, (state.crops.width * video.videoHeight) / video.videoWidth);
  }

  function showImage(index, late) {
    const { numbers, gap_s: gap } = state.crops;
    if (index < 0 || late > 1.5 * gap) {
      state.image = null;
      clear("no face here");
      return;
    }
    const image = imageOf(numbers[index]);
    state.image = image;
    const draw = () => {
      if (state.image !== image) return; // the playhead has moved on
      clear("face crop");
      pen.drawImage(image, 0, 0, CROP_SIDE, CROP_SIDE);
    };
    if (image.complete && image.naturalWidth) draw();
    else image.onload = draw;
  }

  function imageOf(name) {
    if (!images.has(name)) {
      const image = new Image();
      image.onerror = () => {
        images.delete(name); // it is asked for again
        setTimeout(() => state.alive && state.image === image && show(...state.last), POLL_MS * 2);
      };
      image.src = `clips/${place}/crops/${name}`;
      images.set(name, image);
      if (images.size > MOST_IMAGES) images.delete(images.keys().next().value);
    }
    return images.get(name);
  }

  return { node, open, show, close() { state.alive = false; } };
}
