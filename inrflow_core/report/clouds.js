
"use strict";
// Rotates the clouds of the page. Each is drawn as small lit balls with ambient occlusion, as the images that it replaces;
// in plain JavaScript, because browsers allow few WebGL contexts or none.
(() => {
  const REACH = 3, START = {azimuth: 35, elevation: 24, zoom: 1}, LIGHT = [0.55, -0.3, 0.78];
  const AROUND = [[0, 1], [1, 0], [0, -1], [-1, 0], [1, 1], [1, -1], [-1, 1], [-1, -1]];
  const FAR = -1e9;

  const bytes = text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0));

  // Positions within about [-1, 1] and colors in [0, 1] from the data of an element.
  function read(element) {
    const raw = new Uint16Array(bytes(element.dataset.points).buffer);
    const at = Float32Array.from(raw, number => (number / 65535 * 2 - 1) * REACH);
    const given = element.dataset.colors;
    return {at, colors: given ? Float32Array.from(bytes(given), number => number / 255) : colorsOf(at)};
  }

  function colorsOf(at) {
    const low = [9, 9, 9], high = [-9, -9, -9], colors = new Float32Array(at.length);
    at.forEach((value, i) => { low[i % 3] = Math.min(low[i % 3], value); high[i % 3] = Math.max(high[i % 3], value); });
    const span = Math.max(...high.map((value, axis) => value - low[axis]), 1e-9);
    const base = [0.36, 0.46, 0.92], slope = [0.60, 0.42, -0.44];
    at.forEach((value, i) => { colors[i] = base[i % 3] + slope[i % 3] * (value - low[i % 3]) / span; });
    return colors;
  }

  // The pixels of a ball: shift, height above its center, light.
  function ball(radius, stride) {
    const reach = Math.ceil(radius), stamp = [];
    for (let y = -reach; y <= reach; y++) for (let x = -reach; x <= reach; x++) {
      const rest = 1 - (x * x + y * y) / (radius * radius);
      if (rest < 0) continue;
      const height = Math.sqrt(rest);
      const lit = Math.max(0, x / radius * LIGHT[0] - y / radius * LIGHT[1] + height * LIGHT[2]);
      stamp.push([y * stride + x, radius * height, 0.68 + 0.42 * lit]);
    }
    return stamp;
  }

  // One cloud's image of side * side pixels; the buffers have a rim, so that neighbors need no bounds check.
  function draw(canvas, cloud, view, side, isQuick) {
    const {at, colors} = cloud, count = at.length / 3;
    const radius = Math.max(1, 0.7 * side * view.zoom / Math.sqrt(count));
    const reaches = [Math.floor(side / 256) + 1, Math.floor(side / 80) + 1];
    const rim = Math.max(Math.ceil(radius), reaches[1]) + 1, stride = side + 2 * rim;
    const depth = new Float32Array(stride * stride).fill(FAR), owner = new Int32Array(stride * stride);
    const light = new Float32Array(stride * stride), stamp = ball(radius, stride);
    const turn = view.azimuth * Math.PI / 180, tilt = view.elevation * Math.PI / 180;
    const [ct, st, ce, se] = [Math.cos(turn), Math.sin(turn), Math.cos(tilt), Math.sin(tilt)];
    const scale = 0.42 * side * view.zoom, middle = side / 2;
    for (let i = 0; i < count; i++) {
      const x = at[3 * i], y = at[3 * i + 1], z = at[3 * i + 2];
      const forward = x * st + z * ct, near = y * se + forward * ce;
      const larger = scale / (1 - 0.2 * Math.max(-2, Math.min(2, near)));
      const column = Math.floor(middle + (x * ct - z * st) * larger), row = Math.floor(middle - (y * ce - forward * se) * larger);
      if (column < 0 || row < 0 || column >= side || row >= side) continue;
      const cell = (row + rim) * stride + column + rim, height = near * scale;
      for (const [shift, above, lit] of stamp) {
        if (height + above <= depth[cell + shift]) continue;
        depth[cell + shift] = height + above;
        owner[cell + shift] = i;
        light[cell + shift] = lit;
      }
    }
    const image = new ImageData(side, side), pixels = image.data, deep = 0.08 * side * view.zoom;
    const shifts = (isQuick ? [reaches[1]] : reaches).flatMap(
      reach => AROUND.slice(0, isQuick ? 4 : 8).map(([row, column]) => reach * (row * stride + column)));
    const strength = -0.09 * 16 / shifts.length;
    for (let row = 0, to = 0; row < side; row++) for (let column = 0; column < side; column++, to += 4) {
      const cell = (row + rim) * stride + column + rim, here = depth[cell];
      if (here === FAR) continue;
      let hidden = 0;
      for (const shift of shifts) {
        const above = (depth[cell + shift] - here) / deep;
        if (above > 0) hidden += above < 1 ? above : 1;
      }
      const shade = 255 * light[cell] * Math.exp(strength * hidden), from = 3 * owner[cell];
      pixels[to] = colors[from] * shade;
      pixels[to + 1] = colors[from + 1] * shade;
      pixels[to + 2] = colors[from + 2] * shade;
      pixels[to + 3] = 255;
    }
    canvas.width = canvas.height = side;
    canvas.getContext("2d").putImageData(image, 0, 0);
  }

  function start(element, together) {
    const still = element.querySelector("img"), canvas = document.createElement("canvas");
    const self = {view: {...START}, cloud: null, isSeen: false, isPending: false, rest: 0};
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "application");
    canvas.setAttribute("aria-roledescription", "cloud that can be rotated");
    canvas.setAttribute("aria-label", still.alt + "; arrow keys rotate it");
    still.replaceWith(canvas);

    // The static image stays until the first drawing: a screenshot of the page may never scroll to the canvas.
    function keep() {
      if (self.cloud || !still.naturalWidth) return;
      canvas.width = canvas.height = still.naturalWidth;
      canvas.getContext("2d").drawImage(still, 0, 0);
    }
    if (still.complete) keep(); else still.addEventListener("load", keep);

    function show(isQuick) {
      self.cloud ??= read(element);
      // At rest twice the pixels of the screen: the browser antialiases by downscaling.
      const side = canvas.clientWidth * (isQuick ? 1 : 2 * devicePixelRatio);
      draw(canvas, self.cloud, self.view, Math.max(16, Math.min(isQuick ? 480 : 1024, Math.round(side))), isQuick);
    }

    // At most one image a frame while it moves, and a fine one at rest; none while it is out of view.
    self.requestDraw = () => {
      clearTimeout(self.rest);
      self.rest = setTimeout(() => self.isSeen && show(false), 160);
      if (self.isPending || !self.isSeen) return;
      self.isPending = true;
      requestAnimationFrame(() => { self.isPending = false; show(true); });
    };
    self.appear = isSeen => {
      if (isSeen && !self.isSeen) show(false);
      self.isSeen = isSeen;
    };

    function move(change) {
      const view = self.view;
      change(view);
      view.elevation = Math.max(-90, Math.min(90, view.elevation));
      view.zoom = Math.max(1, Math.min(6, view.zoom));
      for (const other of together()) Object.assign(other.view, view);
      for (const other of new Set([self, ...together()])) other.requestDraw();
    }

    let last = null;
    canvas.addEventListener("pointerdown", event => {
      if (event.button !== 0) return;
      last = event;
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", event => {
      if (!last || last.pointerId !== event.pointerId) return;
      const part = 180 / canvas.clientWidth, x = event.clientX - last.clientX, y = event.clientY - last.clientY;
      last = event;
      move(view => { view.azimuth += x * part; view.elevation += y * part; });
    });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { last = null; });
    canvas.addEventListener("dblclick", () => move(view => Object.assign(view, START)));
    canvas.addEventListener("wheel", event => {
      if (document.activeElement !== canvas) return;
      event.preventDefault();
      move(view => { view.zoom *= Math.exp(-event.deltaY / 500); });
    }, {passive: false});
    const keys = {
      ArrowLeft: view => { view.azimuth -= 10; }, ArrowRight: view => { view.azimuth += 10; },
      ArrowUp: view => { view.elevation -= 10; }, ArrowDown: view => { view.elevation += 10; },
      "+": view => { view.zoom *= 1.2; }, "=": view => { view.zoom *= 1.2; }, "-": view => { view.zoom /= 1.2; },
      0: view => Object.assign(view, START),
    };
    canvas.addEventListener("keydown", event => {
      const change = keys[event.key];
      if (!change || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      move(change);
    });
    return {canvas, self};
  }

  const seen = new Map();
  const watch = new IntersectionObserver(
    entries => entries.forEach(entry => seen.get(entry.target).appear(entry.isIntersecting)), {rootMargin: "200px"});
  const resized = new ResizeObserver(entries => entries.forEach(entry => seen.get(entry.target).requestDraw()));
  for (const section of document.querySelectorAll("section")) {
    const turning = section.querySelector(".turning"), all = [];
    if (!turning) continue;
    turning.hidden = false;
    const box = turning.querySelector("input");
    for (const element of section.querySelectorAll(".cloud[data-points]")) {
      const {canvas, self} = start(element, () => box.checked ? all : []);
      all.push(self);
      seen.set(canvas, self);
      watch.observe(canvas);
      resized.observe(canvas);
    }
  }
  addEventListener("beforeprint", () => seen.forEach(self => self.appear(true)));
})();
