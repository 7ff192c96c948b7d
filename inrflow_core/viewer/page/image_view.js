// A deep zoom into an image: every tile is a query of the recorded function at its window.

import { address, milliseconds, request } from "./api.js";

const COARSEST = 6; // the level of OpenSeadragon that has 2^6 pixels: shown first, while the finer tiles are drawn
const ABORTED = "aborted"; // the reason of tiles that are no longer needed
const LEAST_CELL = 6; // pixels of the screen from which on the grid is drawn

const { console: log } = window.OpenSeadragon;
window.OpenSeadragon.console = { ...log, error: (...words) => { if (words.at(-1) !== ABORTED) log.error(...words); } };

export class ImageView {
  key = "zoom";

  /** `kind` is `function`, `bicubic` or `pixels`; `report` gets the milliseconds of each tile, `fail` an Error. */
  constructor(element, { info, kind, report, fail, move }) {
    this.info = info;
    this.kind = kind;
    this.report = report;
    this.fail = fail;
    this.side = info.tile * 2 ** info.levels;
    this.viewer = window.OpenSeadragon({
      element, drawer: "canvas", showNavigationControl: false, animationTime: 0.35, springStiffness: 9,
      maxZoomPixelRatio: 1, minZoomImageRatio: 0.6, visibilityRatio: 0.5, imageLoaderLimit: 2, immediateRender: false,
      blendTime: 0, alwaysBlend: false, gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
      crossOriginPolicy: false, loadTilesWithAjax: true, timeout: 600000, tileRetryMax: 0,
    });
    this.grid = element.appendChild(document.createElement("canvas"));
    this.grid.className = "grid";
    this.hasGrid = false;
    this.resolution = 0;
    this.isFollowing = false;
    this.downloads = new Set();
    this.viewer.addHandler("update-viewport", () => this.drawGrid());
    this.viewer.addHandler("resize", () => this.drawGrid());
    this.viewer.addHandler("viewport-change", () => { if (!this.isFollowing) move(this, this.bounds()); });
  }

  /** Show a function; where the viewport is stays. */
  show(parameters, run) {
    this.abort();
    this.shown = parameters;
    this.resolution = run.resolution;
    const { info, side, kind } = this;
    const top = Math.log2(info.tile);
    const bounds = this.viewer.world.getItemCount() ? this.viewer.viewport.getBounds() : null;
    const view = this;
    this.viewer.addTiledImage({
      tileSource: {
        width: side, height: side, tileSize: info.tile, tileOverlap: 0, minLevel: COARSEST, maxLevel: top + info.levels,
        getTileUrl: (level, column, row) => {
          const coarse = level < top ? { size: 2 ** level } : {};
          return address("tile", { ...parameters, kind, level: Math.max(0, level - top), row, column, ...coarse });
        },
        hasTransparency: () => false,
        downloadTileStart: (job) => { if (view.shown === parameters) view.download(job); else job.fail(ABORTED, null); },
        downloadTileAbort: (job) => job.userData.controller?.abort(),
      },
      index: 0, replace: this.viewer.world.getItemCount() > 0,
      success: () => {
        if (bounds) this.viewer.viewport.fitBounds(bounds, true);
        else if (this.pending) this.place(this.pending);
        this.drawGrid();
      },
    });
  }

  async download(job) {
    const controller = job.userData.controller = new AbortController();
    this.downloads.add(controller);
    try {
      const query = job.src.slice(job.src.indexOf("?") + 1);
      const response = await request("tile", query, controller.signal);
      const blob = await response.blob();
      this.report(milliseconds(response));
      job.finish(blob, null, "rasterBlob");
    } catch (error) {
      const isAborted = error.name === "AbortError";
      if (!isAborted) this.fail(error);
      job.fail(isAborted ? ABORTED : String(error.message || error), null);
    } finally {
      this.downloads.delete(controller);
    }
  }

  /** End the requests of all tiles under way, and make none until another function is shown: OpenSeadragon ends none that it replaces. */
  abort() {
    this.shown = null;
    this.viewer.imageLoader.clear();
    for (const controller of this.downloads) controller.abort();
    this.downloads.clear();
  }

  /** Center and width of what is visible, in sides of the square. */
  bounds() {
    const { x, y, width, height } = this.viewer.viewport.getBounds();
    return { x: x + width / 2, y: y + height / 2, width: Math.min(width, height) };
  }

  /** Look where another view looks. */
  place(bounds) {
    this.pending = bounds;
    if (!this.viewer.world.getItemCount()) return;
    const { x, y, width } = bounds;
    this.isFollowing = true;
    this.viewer.viewport.fitBounds(new window.OpenSeadragon.Rect(x - width / 2, y - width / 2, width, width), true);
    this.isFollowing = false;
  }

  home() {
    this.viewer.viewport.goHome();
  }

  /** The visible window (top, left, bottom, right) of the square, and its pixels on the screen. */
  window() {
    const bounds = this.viewer.viewport.getBounds(true);
    const inside = (number) => Math.min(1, Math.max(0, number));
    const [top, left] = [inside(bounds.y), inside(bounds.x)];
    const [bottom, right] = [inside(bounds.y + bounds.height), inside(bounds.x + bounds.width)];
    const { x } = this.viewer.viewport.getContainerSize();
    const pixels = (share) => Math.max(1, Math.round(share / bounds.width * x * window.devicePixelRatio));
    return { window: [top, left, bottom, right], rows: pixels(bottom - top), columns: pixels(right - left) };
  }

  setGrid(isShown) {
    this.hasGrid = isShown;
    this.drawGrid();
  }

  drawGrid() {
    const canvas = this.grid;
    const ratio = window.devicePixelRatio;
    const [width, height] = [canvas.clientWidth * ratio, canvas.clientHeight * ratio];
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, width, height);
    if (!this.hasGrid || !this.viewer.world.getItemCount()) return;
    const bounds = this.viewer.viewport.getBounds(true);
    const scale = width / bounds.width;
    if (scale / this.resolution < LEAST_CELL * ratio) return;
    const at = (index, start) => Math.round((index / this.resolution - start) * scale) + 0.5;
    context.strokeStyle = "rgba(255, 120, 0, 0.7)";
    context.beginPath();
    const ends = [at(0, bounds.x), at(this.resolution, bounds.x), at(0, bounds.y), at(this.resolution, bounds.y)];
    for (let index = 0; index <= this.resolution; index++) {
      const [x, y] = [at(index, bounds.x), at(index, bounds.y)];
      if (x >= 0 && x <= width) { context.moveTo(x, Math.max(0, ends[2])); context.lineTo(x, Math.min(height, ends[3])); }
      if (y >= 0 && y <= height) { context.moveTo(Math.max(0, ends[0]), y); context.lineTo(Math.min(width, ends[1]), y); }
    }
    context.stroke();
  }

  destroy() {
    this.abort();
    this.viewer.destroy();
    this.grid.remove();
  }
}
