"use strict";
// The player: which episode, which moment, whose eyes. replay_data.js opens episodes, scene_canvas.js draws them.

const ARM_NAMES = { joint: "Joint policy", deployed: "Deployed team" };
const SPEEDS = [0.25, 0.5, 1, 2, 4, 8];

class ReplayPlayer {
  constructor(data) {
    this.data = data;
    this.part = Object.fromEntries(
      ["player", "episode", "arms", "agent", "stages", "play", "back", "forward", "scrubber", "mark", "time", "speed", "parted",
        "jump", "mind", "brief", "who", "action", "sees", "head", "values"].map((name) => [name, document.getElementById(`replay-${name}`)]));
    this.still = matchMedia("(prefers-reduced-motion: reduce)");
    this.narrow = matchMedia("(max-width: 40rem)");
    this.colours = pageColours();
    this.moment = 0; // whole where nothing moves
    this.chosen = null;
    this.playing = false;
    this.opened = new Map();
    this.watchers = [];
    this.fillChoices();
    this.listen();
    this.part.player.hidden = false;
    this.ready = this.choose(0).catch((error) => {
      this.part.parted.textContent = `The episodes cannot be opened in this browser: ${error.message}`;
      throw error;
    });
  }

  /** The step that is shown. */
  get step() { return Math.floor(this.moment); }

  /** Seconds that a step takes at speed 1: the control period, where that can be watched. */
  get pace() { return Math.min(Math.max(this.data.period, 0.04), 1) / Number(this.part.speed.value); }

  fillChoices() {
    const { part, data } = this;
    data.episodes.forEach((episode, index) => addOption(part.episode, index, episodeName(episode)));
    const arms = data.episodes[0].arms.map((arm) => arm.arm);
    if (arms.length > 1) addOption(part.arms, "both", "both teams");
    for (const arm of arms) addOption(part.arms, arm, ARM_NAMES[arm].toLowerCase());
    if (this.narrow.matches) part.arms.value = arms.at(-1);
    addOption(part.agent, "", "everybody");
    data.agents.forEach((name, index) => addOption(part.agent, index, name));
    for (const speed of SPEEDS) addOption(part.speed, speed, `${speed} ×`);
    part.speed.value = 1;
  }

  listen() {
    const { part } = this;
    part.episode.addEventListener("change", () => this.choose(Number(part.episode.value)));
    part.arms.addEventListener("change", () => this.layStages());
    part.agent.addEventListener("change", () => this.look(part.agent.value === "" ? null : Number(part.agent.value)));
    part.play.addEventListener("click", () => this.play(!this.playing));
    part.back.addEventListener("click", () => this.go(this.step - 1));
    part.forward.addEventListener("click", () => this.go(this.step + 1));
    part.scrubber.addEventListener("input", () => this.go(Number(part.scrubber.value)));
    part.brief.addEventListener("change", () => this.hideZeros());
    part.jump.addEventListener("click", () => this.go(this.episode.parted));
    part.player.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.show()).observe(part.stages);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.colours = pageColours();
      this.show();
    });
  }

  /** Open an episode and show its start. */
  async choose(index) {
    this.play(false);
    const episode = this.data.episodes[index];
    if (!this.opened.has(index)) this.opened.set(index, openEpisode(episode));
    const arms = await this.opened.get(index);
    this.part.episode.value = index;
    [this.index, this.episode, this.all, this.moment] = [index, episode, arms, 0];
    this.last = Math.max(...arms.map((arm) => arm.steps));
    this.part.scrubber.max = this.last;
    this.tellParted();
    this.layStages();
  }

  tellParted() {
    const { parted, arms } = this.episode, { mark, jump } = this.part;
    mark.hidden = jump.hidden = parted === null;
    this.part.parted.textContent = arms.length < 2 ? ""
      : parted === null ? "Both teams do the same in this episode." : `The teams first act differently at step ${parted}.`;
    if (parted !== null) mark.style.left = `calc(var(--thumb) / 2 + (100% - var(--thumb)) * ${parted / this.last})`;
  }

  /** One figure for each team that is shown. */
  layStages() {
    const wanted = this.part.arms.value;
    const arms = this.all.filter((arm) => wanted === "both" || arm.arm === wanted);
    this.stages = arms.map((arm) => {
      const figure = document.createElement("figure"), title = document.createElement("figcaption");
      const [name, told] = [document.createElement("b"), document.createElement("span")];
      name.textContent = ARM_NAMES[arm.arm];
      told.textContent = [arm.outcome, `return ${readable(arm.return)}`].filter(Boolean).join(", ");
      title.append(name, told);
      const canvas = document.createElement("canvas"), caption = document.createElement("p");
      canvas.tabIndex = 0;
      canvas.setAttribute("role", "img");
      caption.className = "caption";
      figure.append(title, canvas, caption);
      const stage = { arm, canvas, caption, scene: new SceneCanvas(canvas) };
      this.listenTo(stage);
      return stage;
    });
    this.part.stages.replaceChildren(...this.stages.map((stage) => stage.canvas.parentElement));
    this.layMind();
    this.show();
  }

  /** A click chooses an agent; dragging turns what has three dimensions. */
  listenTo({ arm, canvas, scene }) {
    let held = null;
    const solid = arm.scene && arm.scene.axes === 3;
    if (solid) canvas.style.touchAction = "none";
    canvas.addEventListener("decoded", () => this.show());
    canvas.addEventListener("pointerdown", (event) => { held = { x: event.clientX, y: event.clientY, moved: false }; });
    canvas.addEventListener("pointermove", (event) => {
      if (!held || !solid) return;
      const [dx, dy] = [event.clientX - held.x, event.clientY - held.y];
      if (!held.moved && Math.hypot(dx, dy) < 6) return;
      held = { x: event.clientX, y: event.clientY, moved: true };
      this.turn(dx / 150, dy / 150);
    });
    canvas.addEventListener("pointerup", (event) => {
      if (held && !held.moved) {
        const box = canvas.getBoundingClientRect();
        this.look(scene.agentAt(event.clientX - box.left, event.clientY - box.top));
      }
      held = null;
    });
    canvas.addEventListener("pointercancel", () => { held = null; });
    canvas.addEventListener("pointerleave", () => { held = null; });
  }

  turn(around, up) {
    for (const { scene } of this.stages) {
      scene.turn.around += around;
      scene.turn.up = Math.min(Math.max(scene.turn.up + up, 0), 1.5);
    }
    this.show();
  }

  key(event) {
    const { tagName } = event.target, drawing = tagName === "CANVAS";
    if (event.ctrlKey || event.altKey || event.metaKey || tagName === "SELECT") return;
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (event.key === " " && tagName !== "BUTTON") this.play(!this.playing);
    else if (drawing && event.shiftKey && arrows) this.turn(arrows[0] / 10, arrows[1] / 10);
    else if (tagName === "INPUT") return;
    else if (arrows && arrows[0]) this.go(this.step + arrows[0]);
    else if (event.key === "Home" && drawing) this.go(0);
    else if (event.key === "End" && drawing) this.go(this.last);
    else if (event.key === "Enter" && drawing) this.look(this.chosen === null ? 0 : (this.chosen + 1) % this.data.agents.length);
    else if (event.key === "Escape") this.look(null);
    else return;
    event.preventDefault();
  }

  go(step) {
    this.play(false);
    this.moment = Math.min(Math.max(step, 0), this.last);
    this.show();
  }

  play(on) {
    if (on && this.step >= this.last) this.moment = 0;
    this.playing = on;
    this.part.play.textContent = on ? "Pause" : "Play";
    if (!on) this.moment = this.step;
    let before = null;
    const turn = (this.turnOf = (this.turnOf || 0) + 1);
    const frame = (now) => {
      if (!this.playing || turn !== this.turnOf) return;
      if (before !== null) this.moment = Math.min(this.moment + (now - before) / 1000 / this.pace, this.last);
      before = now;
      if (this.moment >= this.last) this.play(false);
      this.show();
      requestAnimationFrame(frame);
    };
    if (on) requestAnimationFrame(frame);
  }

  look(agent) {
    this.chosen = agent;
    this.part.agent.value = agent === null ? "" : agent;
    this.layMind();
    this.show();
  }

  show() {
    if (!this.stages) return;
    const { part, step } = this;
    for (const { arm, canvas, caption, scene } of this.stages) {
      scene.draw(arm, this.still.matches ? step : this.moment, this.chosen, this.colours);
      const at = Math.min(step, arm.steps), said = (arm.scene && arm.scene.captions[at]) || "";
      const over = at < step || (at === arm.steps && at > 0) ? "the end" : "";
      setText(caption, [said, over].filter(Boolean).join(" · "));
      const whose = this.chosen === null ? "everybody" : this.data.agents[this.chosen];
      setLabel(canvas, `${ARM_NAMES[arm.arm]} at step ${at} of ${arm.steps}, as seen by ${whose}. ${said}`);
    }
    if (this.shown === `${this.index} ${step} ${this.chosen} ${part.arms.value}`) return;
    this.shown = `${this.index} ${step} ${this.chosen} ${part.arms.value}`;
    part.scrubber.value = step;
    part.scrubber.setAttribute("aria-valuetext", `step ${step} of ${this.last}`);
    part.player.dataset.step = step;
    setText(part.time, `step ${step} of ${this.last} · ${readable(step * this.data.period)} s`);
    part.back.disabled = step === 0;
    part.forward.disabled = step === this.last;
    this.showMind();
    for (const watch of this.watchers) watch(this);
  }

  /** The rows for the chosen agent's observation: one for each element, a column for each team. */
  layMind() {
    const { part, data, chosen } = this;
    part.mind.hidden = chosen === null;
    if (chosen === null) return;
    part.who.textContent = `What ${data.agents[chosen]} sees`;
    const head = document.createElement("tr");
    head.append(...["Element", ...this.stages.map(({ arm }) => ARM_NAMES[arm.arm])].map((text) => heading(text, "col")));
    part.head.replaceChildren(head);
    this.rows = data.elements[data.elementsOf[chosen]].map((name) => {
      const row = document.createElement("tr"), cells = this.stages.map(() => document.createElement("td"));
      row.append(heading(name, "row"), ...cells);
      return { row, cells };
    });
    part.values.replaceChildren(...this.rows.map(({ row }) => row));
    this.hideZeros();
    this.shown = "";
  }

  hideZeros() { this.part.values.className = this.part.brief.checked ? "brief" : ""; }

  showMind() {
    const { chosen, data, part, stages, step } = this;
    if (chosen === null) return;
    const most = Math.max(...data.elementsOf.map((which) => data.elements[which].length));
    this.rows.forEach(({ row, cells }, element) => {
      const values = stages.map(({ arm }) => arm.obs[(chosen * most + element) * arm.moments + Math.min(step, arm.steps)]);
      cells.forEach((cell, column) => setText(cell, readable(values[column])));
      row.className = values.every((value) => value === 0) ? "nothing" : "";
    });
    setText(part.action, stages.map(({ arm }) => `${ARM_NAMES[arm.arm]}: ${this.deed(arm)}`).join(" "));
    setText(part.sees, stages.filter(({ arm }) => arm.scene).map(({ arm, scene }) => {
      const shapes = arm.scene.shapes.map(([, role, label, , agent], index) => ({ role, label, agent, index }))
        .filter((one) => ["agent", "other", "goal"].includes(one.role) && one.agent !== chosen && one.label)
        .filter((one) => arm.scene.shown[one.index * arm.moments + scene.from] === 1);
      const seen = [...new Set(shapes.filter((one) => scene.sees(chosen, one.index)).map((one) => one.label))];
      const of = new Set(shapes.map((one) => one.label)).size;
      const where = stages.length > 1 ? ` (${ARM_NAMES[arm.arm].toLowerCase()})` : "";
      return `Sees ${seen.length} of ${of}${where}${seen.length ? `: ${seen.join("; ")}` : ""}.`;
    }).join(" "));
  }

  /** What the chosen agent does in the step that is shown, and what it may do. */
  deed(arm) {
    const { chosen, data, step } = this, width = arm.actionWidth;
    if (step >= arm.steps) return "the episode is over.";
    if (!arm.active[chosen * arm.moments + step]) return "can no longer act.";
    const size = data.sizes[chosen], action = [];
    for (let k = 0; k < size; k++) action.push(arm.actions[(chosen * width + k) * arm.steps + step]);
    const late = !arm.decided[chosen * arm.steps + step];
    const done = `${late ? "made no decision in time and fell back to" : "does"} ${this.told(chosen, action)}`;
    if (!data.masked || size > 1) return `${done}.`;
    const entries = arm.masks.length / arm.moments / data.agents.length, may = [];
    for (let k = 0; k < data.choices[chosen]; k++) {
      if (arm.masks[(chosen * entries + k) * arm.moments + step]) may.push(this.told(chosen, [k + data.starts[chosen]]));
    }
    return `${done}; may ${may.join(", ")}.`;
  }

  /** An agent's action by name where the task has names: of what is chosen, or of each element. */
  told(agent, action) {
    const names = this.data.actionNames[agent];
    if (this.data.discrete[agent]) return names[action[0] - this.data.starts[agent]] || readable(action[0]);
    return action.map((value, k) => (names[k] ? `${names[k]} ${readable(value)}` : readable(value))).join(", ");
  }
}

function addOption(select, value, text) {
  const option = document.createElement("option");
  [option.value, option.textContent] = [value, text];
  select.append(option);
}

function heading(text, scope) {
  const cell = document.createElement("th");
  [cell.textContent, cell.scope] = [text, scope];
  return cell;
}

function setText(element, text) { if (element.textContent !== text) element.textContent = text; }

function setLabel(element, text) { if (element.getAttribute("aria-label") !== text) element.setAttribute("aria-label", text); }

/** A number as people read it. */
function readable(value) { return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(3))).replace("-", "−"); }

function episodeName(episode) {
  const outcome = episode.arms.map((arm) => arm.outcome).filter(Boolean);
  return `${episode.number}${outcome.length ? ` (${[...new Set(outcome)].join(", ")})` : ""}`;
}

const replayPlayer = new ReplayPlayer(JSON.parse(document.getElementById("replay-data").textContent));
