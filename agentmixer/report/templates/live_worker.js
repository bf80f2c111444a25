"use strict";
// One agent. It is sent the runtime and its model once, then its observations, one after the other.

let agent = null, session = null, ort = null, state = null;

const start = async ({ own, model, script, wasm }) => {
  // A page opened as a file may not start a module in a worker, but a worker may import what it has made itself.
  ort = await import(URL.createObjectURL(new Blob([script], { type: "text/javascript" })));
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = wasm;
  ort.env.logLevel = "error";
  agent = own;
  const digest = self.crypto && crypto.subtle ? new Uint8Array(await crypto.subtle.digest("SHA-256", model)) : null;
  session = await ort.InferenceSession.create(new Uint8Array(model), { executionProviders: ["wasm"] });
  return { sha256: digest && Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("") };
};

const decide = async ({ obs, mask, first }) => {
  if (first) state = agent.state && new Float32Array(agent.state.size);
  const begin = performance.now();
  const feed = { obs: new ort.Tensor("float32", obs, [1, obs.length]) };
  if (agent.mask) feed.action_mask = new ort.Tensor("bool", mask, [1, mask.length]);
  if (agent.state) feed[agent.state.input] = new ort.Tensor("float32", state, [1, state.length]);
  const found = await session.run(feed);
  if (agent.state) state = Float32Array.from(found[agent.state.output].data);
  return { action: Array.from(found.action.data, Number), took: performance.now() - begin };
};

self.onmessage = async ({ data }) => {
  try {
    self.postMessage(data.model ? await start(data) : await decide(data));
  } catch (error) {
    self.postMessage({ failed: String(error) });
  }
};
