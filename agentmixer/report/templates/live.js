"use strict";
// The exported policies decide the deployed team's recorded episodes anew, one worker an agent.

class LiveTeam {
  constructor(data, player) {
    this.data = data;
    this.player = player;
    this.part = Object.fromEntries(
      ["player", "result", "progress", "again", "rate", "cards"].map((name) => [name, document.getElementById(`live-${name}`)]));
    this.live = new Map(); // by episode: each agent's actions, step after step
    this.agents = data.agents.map((own, index) => ({ own, index, ...this.card(own) }));
    this.part.again.addEventListener("click", () => this.decide());
    player.watchers.push(() => this.showStep());
    this.ready = player.ready.then(() => this.start()).then(() => this.decide()).catch((error) => this.fail(error));
  }

  card(own) {
    const article = document.createElement("article"), title = document.createElement("h3"), list = document.createElement("dl");
    title.textContent = own.name;
    const line = (name) => {
      const term = document.createElement("dt"), value = document.createElement("dd");
      term.textContent = name;
      list.append(term, value);
      return value;
    };
    article.append(title, list);
    this.part.cards.append(article);
    const said = { digest: line("SHA-256"), checked: line("policy.onnx"), equal: line("equal"), far: line("largest difference"),
      took: line("a decision takes"), now: line("this step") };
    said.digest.className = "digest";
    return { said };
  }

  /** Unpack the runtime, give every worker its model, and wait until all are ready. */
  async start() {
    const { runtime, worker } = this.data;
    const [script, wasm] = await Promise.all([inflate(runtime.script), inflate(runtime.wasm)]);
    const address = URL.createObjectURL(new Blob([worker], { type: "text/javascript" }));
    this.say(`Starting ${this.agents.length} workers…`);
    await Promise.all(this.agents.map(async (agent) => {
      const model = await inflate(agent.own.model);
      const { model: text, ...own } = agent.own;
      agent.worker = new Worker(address);
      const { sha256 } = await this.ask(agent, { own, model, script, wasm });
      agent.said.digest.textContent = sha256 || "not computed: the browser offers no digests to a page opened this way";
      agent.said.checked.textContent = sha256 === null ? "not checked" : sha256 === own.sha256 ? "as agent.json says" : "NOT the file of agent.json";
      if (sha256 && sha256 !== own.sha256) throw new Error(`${own.name}: the model's digest is not agent.json's`);
    }));
  }

  /** Send a worker one message and wait for its answer. */
  ask(agent, message) {
    return new Promise((resolve, reject) => {
      agent.worker.onmessage = ({ data }) => (data.failed ? reject(new Error(`${agent.own.name}: ${data.failed}`)) : resolve(data));
      agent.worker.onerror = (event) => reject(new Error(`${agent.own.name}: ${event.message || "its worker did not start"}`));
      agent.worker.postMessage(message);
    });
  }

  /** Decide all episodes anew. */
  async decide() {
    const { part, player } = this, { episodes } = player.data;
    part.again.disabled = true;
    part.player.dataset.state = "deciding";
    for (const agent of this.agents) Object.assign(agent, { decided: 0, equal: 0, far: 0, took: 0, late: 0 });
    const steps = episodes.map((episode) => episode.arms.find((arm) => arm.arm === "deployed")?.steps || 0);
    const all = steps.reduce((sum, count) => sum + count, 0) * this.agents.length;
    const begin = performance.now();
    try {
      for (let index = 0; index < episodes.length; index++) {
        if (!steps[index]) continue;
        this.say(`Deciding episode ${index + 1} of ${episodes.length} anew…`);
        const arm = (await openEpisode(episodes[index])).find((one) => one.arm === "deployed");
        this.live.set(index, await Promise.all(this.agents.map((agent) => this.replayed(agent, arm))));
        part.progress.value = (this.total("decided") + this.total("late")) / all;
        this.showAgents();
        this.showStep();
      }
    } catch (error) {
      this.fail(error);
      return;
    }
    const seconds = (performance.now() - begin) / 1000;
    const [decided, equal, late] = [this.total("decided"), this.total("equal"), this.total("late")];
    part.player.dataset.state = decided === equal ? "equal" : "different";
    Object.assign(part.player.dataset, { decided, equal, late, far: Math.max(...this.agents.map((agent) => agent.far)) });
    const real = this.player.data.real.some(Boolean);
    this.say(`${equal.toLocaleString("en")} of ${decided.toLocaleString("en")} decisions are ${real ? `the recorded ones within ${this.data.same}` : "the recorded ones"}`
      + `${real ? `; largest difference ${Number(part.player.dataset.far).toExponential(1)}` : ""}.`
      + (late ? ` Left out: ${late.toLocaleString("en")} recorded ${late === 1 ? "fallback" : "fallbacks"}, which no policy decided.` : ""));
    part.rate.textContent = `${Math.round((decided + late) / seconds).toLocaleString("en")} decisions a second, all agents together, in this browser.`;
    part.again.disabled = false;
  }

  /** One agent's decisions over an episode, each on its own recorded observation. */
  async replayed(agent, arm) {
    const { index, own } = agent, { data } = this.player, actions = [];
    const most = arm.obs.length / arm.moments / this.agents.length, entries = arm.masks.length / arm.moments / this.agents.length;
    for (let step = 0; step < arm.steps; step++) {
      const obs = Float32Array.from({ length: own.obs }, (_, k) => arm.obs[(index * most + k) * arm.moments + step]);
      const mask = Uint8Array.from({ length: own.mask }, (_, k) => arm.masks[(index * entries + k) * arm.moments + step]);
      const { action, took } = await this.ask(agent, { obs, mask, first: step === 0 });
      actions.push(action);
      agent.took += took;
      if (!arm.decided[index * arm.steps + step]) {
        agent.late += 1;
        continue;
      }
      const far = Math.max(...action.map((value, k) => Math.abs(value - recorded(arm, index, k, step))));
      agent.decided += 1;
      agent.equal += (data.real[index] ? far <= this.data.same : far === 0) ? 1 : 0;
      agent.far = Math.max(agent.far, far);
    }
    return actions;
  }

  total(name) { return this.agents.reduce((sum, agent) => sum + agent[name], 0); }

  showAgents() {
    for (const { said, decided, equal, far, took, late } of this.agents) {
      said.equal.textContent = `${equal.toLocaleString("en")} of ${decided.toLocaleString("en")}`;
      said.far.textContent = far ? far.toExponential(1) : "0";
      said.took.textContent = `${Math.round((1000 * took) / (decided + late))} µs`;
    }
  }

  /** What each agent decided here in the step that the replay shows, beside what was recorded. */
  showStep() {
    const { player } = this, arm = player.all?.find((one) => one.arm === "deployed"), episode = this.live.get(player.index);
    for (const { index, said } of this.agents) {
      const action = arm && episode && episode[index][player.step];
      said.now.textContent = !action ? "–"
        : `${player.told(index, action)} (recorded ${player.told(index, action.map((_, k) => recorded(arm, index, k, player.step)))})`;
    }
  }

  say(text) { this.part.result.textContent = text; }

  fail(error) {
    this.part.player.dataset.state = "failed";
    this.say(`The policies could not be run here: ${error.message}`);
  }
}

/** What the deployed team did: element k of an agent's action in a step. */
function recorded(arm, agent, k, step) { return arm.actions[(agent * arm.actionWidth + k) * arm.steps + step]; }

const liveTeam = new LiveTeam(JSON.parse(document.getElementById("live-data").textContent), replayPlayer);
