"use strict";
// Draws one arm of an episode on a canvas, at any moment, as everybody or as one agent sees it.

/** The page's colours, as the style sheet has them now: dark or light. */
function pageColours() {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(name).trim();
  return {
    agent: of("--a"), other: of("--b"), goal: of("--c"), mark: of("--d"), wall: of("--soft"), ground: of("--line"),
    paper: of("--card"), ink: of("--ink"), soft: of("--soft"), each: ["--a", "--d", "--c", "--e"].map(of),
  };
}

/** A canvas with the arm that it shows. `turn` is the camera of three dimensions: around the vertical, and up. */
class SceneCanvas {
  constructor(canvas) {
    this.canvas = canvas;
    this.arm = null;
    this.turn = { around: -0.6, up: 0.35 };
    this.spots = [];
  }

  /** Show `arm` at `moment`, which may lie between two; chosen: the agent whose sight is shown, or null for everybody's. */
  draw(arm, moment, chosen, colours) {
    this.arm = arm;
    this.colours = colours;
    const { scene } = arm;
    const [wide, high] = scene ? [scene.width, scene.height] : arm.shape ? [arm.shape[1], arm.shape[0]] : [2, 1];
    const width = this.canvas.clientWidth;
    const height = Math.round(width * Math.min(Math.max(high / wide, 0.3), 1));
    const density = window.devicePixelRatio || 1;
    if (this.canvas.width !== Math.round(width * density) || this.canvas.height !== Math.round(height * density)) {
      this.canvas.width = Math.round(width * density);
      this.canvas.height = Math.round(height * density);
      this.canvas.style.height = `${height}px`;
    }
    const pen = (this.pen = this.canvas.getContext("2d"));
    pen.setTransform(density, 0, 0, density, 0, 0);
    pen.clearRect(0, 0, width, height);
    this.spots = [];
    if (!scene) return this.drawPicture(width, height, moment);
    this.flat = scene.axes === 2; // else width and height are how far one sees around the middle
    this.scale = Math.min(width / wide, height / high) / (this.flat ? 1 : 2);
    this.middle = [width / 2, height / 2];
    this.moment = Math.min(moment, arm.steps);
    this.from = Math.floor(this.moment);
    this.part = this.moment - this.from;
    const shapes = scene.shapes.map((shape, index) => this.placed(shape, index)).filter((one) => one.shown);
    if (!this.flat) shapes.sort((one, other) => (other.role === "ground") - (one.role === "ground") || other.depth - one.depth);
    if (chosen !== null) this.drawSight(shapes, chosen);
    for (const one of shapes) this.drawShape(one, chosen);
    return undefined;
  }

  /** Element `index` of a scene's array with `axes` elements a shape, between two moments. */
  value(array, index, moves = true) {
    const moments = this.arm.moments;
    const before = array[index * moments + this.from];
    if (!moves || !this.part || this.from + 1 >= moments) return before;
    return before + this.part * (array[index * moments + this.from + 1] - before);
  }

  point(array, shape, moves) {
    const { axes } = this.arm.scene;
    return Array.from({ length: axes }, (_, axis) => this.value(array, shape * axes + axis, moves));
  }

  /** A shape with everything that drawing it takes. */
  placed([kind, role, label, size, agent], index) {
    const { scene, moments } = this.arm;
    const now = index * moments + this.from;
    const moves = role !== "ground"; // which is laid anew around what moves, and must not slide
    const at = this.point(scene.at, index, moves), to = this.point(scene.to, index, moves);
    const place = this.project(at);
    return {
      kind, role, label, size, agent, index, at, to, place,
      shown: scene.shown[now] === 1, level: scene.level[now],
      depth: kind === "line" ? (place[2] + this.project(to)[2]) / 2 : place[2],
    };
  }

  /** Where a point of the scene lies on the canvas: x and y in pixels, and how far behind the middle. */
  project(point) {
    const [x0, y0] = this.middle;
    const { scene } = this.arm;
    if (this.flat) return [x0 + (point[0] - scene.width / 2) * this.scale, y0 - (point[1] - scene.height / 2) * this.scale, 0];
    const centre = scene.centre ? [0, 1, 2].map((axis) => this.value(scene.centre, axis)) : [0, 0, 0];
    const [x, y, z] = [0, 1, 2].map((axis) => point[axis] - centre[axis]);
    const { around, up } = this.turn;
    const right = x * Math.cos(around) - y * Math.sin(around);
    const away = x * Math.sin(around) + y * Math.cos(around);
    const depth = away * Math.cos(up) - z * Math.sin(up);
    const near = 3 * scene.width / (3 * scene.width + depth);
    return [x0 + right * this.scale * near, y0 - (z * Math.cos(up) + away * Math.sin(up)) * this.scale * near, depth];
  }

  /** How far the chosen agent sees, where that is a circle. */
  drawSight(shapes, chosen) {
    const { pen, colours } = this;
    const reach = this.arm.scene.sight[chosen], own = shapes.find((one) => one.agent === chosen);
    if (reach === null || reach === undefined || !own) return;
    pen.beginPath();
    pen.arc(own.place[0], own.place[1], reach * this.scale, 0, 2 * Math.PI);
    pen.fillStyle = colours.agent;
    pen.globalAlpha = 0.08;
    pen.fill();
    pen.globalAlpha = 1;
    pen.setLineDash([5, 5]);
    pen.strokeStyle = colours.agent;
    pen.lineWidth = 1.5;
    pen.stroke();
    pen.setLineDash([]);
  }

  /** Whether the chosen agent sees a shape. */
  sees(chosen, index) {
    const { scene, moments } = this.arm;
    return chosen === null || scene.seen[(chosen * scene.shapes.length + index) * moments + this.from] === 1;
  }

  drawShape(one, chosen) {
    const { pen, colours } = this;
    const seen = this.sees(chosen, one.index), own = chosen !== null && one.agent === chosen;
    const { each } = colours; // a robot's parts, by the agent that moves them
    const whose = !this.flat && one.agent !== null ? each[one.agent % each.length] : colours[one.role];
    const colour = seen ? whose : colours.soft;
    pen.globalAlpha = seen ? 1 : 0.16;
    pen.fillStyle = pen.strokeStyle = colour;
    if (one.kind === "circle") this.drawCircle(one, own, seen);
    else if (one.kind === "rectangle") this.drawRectangle(one, own);
    else if (one.kind === "line") this.drawLine(one, own, colour);
    else this.drawText(one.label, one.place, Math.max(one.size * this.scale, 9), seen ? colours.ink : colours.soft);
    pen.globalAlpha = 1;
    if (one.agent !== null && one.kind !== "text") this.spots.push(one);
  }

  drawCircle(one, own, seen) {
    const { pen, colours } = this;
    const [x, y] = one.place, radius = Math.max(one.size * this.scale, 2.5);
    pen.beginPath();
    pen.arc(x, y, radius, 0, 2 * Math.PI);
    if (one.role === "mark") { // a ring, so that what is marked stays visible
      pen.lineWidth = 3;
      return pen.stroke();
    }
    pen.fill();
    pen.lineWidth = own ? 3 : 1.5;
    pen.strokeStyle = own ? colours.ink : colours.paper;
    pen.stroke();
    if (one.agent !== null && radius >= 7) this.drawText(String(one.agent), one.place, radius * 1.1, colours.paper);
    if (Number.isNaN(one.level) || !seen) return undefined;
    const [wide, high] = [Math.max(2 * radius, 14), 3], top = y - radius - 7;
    pen.fillStyle = colours.ground;
    pen.fillRect(x - wide / 2, top, wide, high);
    pen.fillStyle = colours[one.role];
    pen.fillRect(x - wide / 2, top, wide * one.level, high);
    return undefined;
  }

  drawRectangle(one, own) {
    const { pen, colours } = this;
    const [wide, high] = [one.to[0] / 2, one.to[1] / 2];
    const corners = [[-wide, -high], [wide, -high], [wide, high], [-wide, high]].map(([x, y]) =>
      this.project([one.at[0] + x, one.at[1] + y, ...one.at.slice(2)]));
    pen.beginPath();
    corners.forEach(([x, y], index) => (index ? pen.lineTo(x, y) : pen.moveTo(x, y)));
    pen.closePath();
    const before = pen.globalAlpha;
    if (!Number.isNaN(one.level)) pen.globalAlpha = before * (0.06 + 0.6 * one.level); // text stays readable on it
    pen.fill();
    pen.globalAlpha = before;
    pen.lineWidth = own ? 3 : 1;
    pen.strokeStyle = own ? colours.ink : colours.ground;
    pen.stroke();
  }

  drawLine(one, own, colour) {
    const { pen, colours } = this;
    const end = this.project(one.to), least = one.role === "ground" ? 0.5 : 1.5, wide = Math.max(one.size * this.scale, least);
    const thick = one.role === "ground" ? Math.min(wide, 1.5) : wide;
    pen.lineCap = "round";
    const strokes = (this.flat || one.role === "ground") && !own ? [[colour, thick]] : [[own ? colours.ink : colours.paper, thick + 3], [colour, thick]];
    for (const [stroke, width] of strokes) {
      pen.strokeStyle = stroke;
      pen.lineWidth = width;
      pen.beginPath();
      pen.moveTo(one.place[0], one.place[1]);
      pen.lineTo(end[0], end[1]);
      pen.stroke();
    }
  }

  drawText(text, [x, y], size, colour) {
    const { pen } = this;
    pen.fillStyle = colour;
    pen.font = `600 ${size}px system-ui, sans-serif`;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.fillText(text, x, y);
  }

  /** An environment's own picture; it is decoded when it is first shown. */
  drawPicture(width, height, moment) {
    const { arm, pen } = this;
    const at = Math.min(Math.floor(moment), arm.steps);
    if (!arm.pictures) return;
    if (arm.bitmaps[at] instanceof ImageBitmap) {
      const shrink = Math.min(width / arm.shape[1], height / arm.shape[0]);
      const [wide, high] = [arm.shape[1] * shrink, arm.shape[0] * shrink];
      pen.drawImage(arm.bitmaps[at], (width - wide) / 2, (height - high) / 2, wide, high);
    } else if (!arm.bitmaps[at]) {
      arm.bitmaps[at] = createImageBitmap(new Blob([arm.pictures[at]], { type: "image/webp" })).then((bitmap) => {
        arm.bitmaps[at] = bitmap;
        this.canvas.dispatchEvent(new Event("decoded"));
      });
    }
  }

  /** The agent whose shape lies nearest to a point of the canvas, within a finger's width; null if none does. */
  agentAt(x, y) {
    let best = null, nearest = 18;
    for (const one of this.spots) {
      const [ax, ay] = one.place, [bx, by] = one.kind === "line" ? this.project(one.to) : one.place;
      const [dx, dy] = [bx - ax, by - ay], long = dx * dx + dy * dy;
      const along = long ? Math.min(Math.max(((x - ax) * dx + (y - ay) * dy) / long, 0), 1) : 0;
      const half = one.kind === "rectangle" ? Math.min(one.to[0], one.to[1]) / 2 : one.kind === "line" ? one.size / 2 : one.size;
      const distance = Math.hypot(x - ax - along * dx, y - ay - along * dy) - half * this.scale;
      if (distance < nearest) [best, nearest] = [one.agent, distance];
    }
    return best;
  }
}
