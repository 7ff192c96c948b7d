// A radiance field: every view is rendered by the server for the camera that looks from here; coarse while it turns.

import { milliseconds, request } from "./api.js";
import { HOME } from "./stage.js";

const COARSE = 24; // pixels along a side while the scene turns
const REST = 150; // milliseconds without a move before the view is rendered at its full size
const FAR = Math.hypot(...HOME);

export class SceneView {
  key = "pose";

  constructor(element, { report, fail, move }) {
    Object.assign(this, { report, fail, move, element });
    this.image = element.appendChild(new Image());
    this.image.className = "scene";
    this.image.alt = "";
    this.image.draggable = false;
    [this.azimuth, this.elevation, this.zoom] = angles(HOME);
    element.addEventListener("pointerdown", (event) => this.drag(event));
    element.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.turn(0, 0, Math.exp(event.deltaY / 800));
    }, { passive: false });
  }

  show(parameters, run) {
    this.abort();
    Object.assign(this, { parameters, run });
    this.refresh();
  }

  drag(event) {
    event.preventDefault();
    this.element.setPointerCapture(event.pointerId);
    let last = event;
    const turn = (next) => {
      this.turn((last.clientX - next.clientX) / 2, (next.clientY - last.clientY) / 2, 1);
      last = next;
    };
    this.element.addEventListener("pointermove", turn);
    const end = () => {
      this.element.removeEventListener("pointermove", turn);
      for (const name of ["pointerup", "pointercancel"]) this.element.removeEventListener(name, end);
    };
    for (const name of ["pointerup", "pointercancel"]) this.element.addEventListener(name, end);
  }

  turn(azimuth, elevation, zoom) {
    this.azimuth += azimuth;
    this.elevation = Math.max(-89, Math.min(89, this.elevation + elevation));
    this.zoom = Math.max(0.3, Math.min(4, this.zoom * zoom));
    this.move(this, this.pose());
    this.refresh();
  }

  pose() {
    const [turn, tilt] = [this.azimuth, this.elevation].map((degrees) => degrees * Math.PI / 180);
    const flat = Math.cos(tilt);
    return [flat * Math.sin(turn), Math.sin(tilt), flat * Math.cos(turn)].map((number) => FAR * this.zoom * number);
  }

  place(pose) {
    [this.azimuth, this.elevation, this.zoom] = angles(pose);
    this.refresh();
  }

  home() {
    this.place(HOME);
    this.move(this, this.pose());
  }

  /** The camera of the server's view. */
  camera() {
    const distance = (this.run.distance ?? 1) * this.zoom;
    return { azimuth: this.azimuth.toFixed(2), elevation: this.elevation.toFixed(2), distance: distance.toFixed(4) };
  }

  /** A coarse view now, unless one is under way, and the full one when the scene rests. */
  refresh() {
    if (!this.parameters) return;
    clearTimeout(this.timer);
    this.full?.abort();
    this.timer = setTimeout(() => this.renderFull(), REST);
    this.isDirty = true;
    if (!this.isCoarse) this.renderCoarse();
  }

  async renderCoarse() {
    this.isCoarse = true;
    while (this.isDirty && this.parameters) {
      this.isDirty = false;
      this.coarse = new AbortController();
      await this.render({ resolution: COARSE }, this.coarse.signal, true);
    }
    this.isCoarse = false;
  }

  renderFull() {
    this.isDirty = false;
    this.full = new AbortController();
    return this.render({}, this.full.signal);
  }

  async render(size, signal, isCoarse = false) {
    try {
      const response = await request("scene", { ...this.parameters, ...size, ...this.camera() }, signal);
      const blob = await response.blob();
      if (signal.aborted || (isCoarse && this.full && !this.full.signal.aborted)) return;
      URL.revokeObjectURL(this.image.src);
      this.image.src = URL.createObjectURL(blob);
      if (!isCoarse) this.report(milliseconds(response));
    } catch (error) {
      if (error.name !== "AbortError") this.fail(error);
    }
  }

  /** End the requests under way, and make none until another function is shown. */
  abort() {
    this.parameters = null;
    clearTimeout(this.timer);
    this.full?.abort();
    this.coarse?.abort();
  }

  destroy() {
    this.abort();
    URL.revokeObjectURL(this.image.src);
    this.image.remove();
  }
}

/** Azimuth and elevation in degrees, and the distance in units of the first one, of a pose. */
function angles([x, y, z]) {
  const length = Math.hypot(x, y, z);
  return [Math.atan2(x, z) * 180 / Math.PI, Math.asin(y / length) * 180 / Math.PI, length / FAR];
}
