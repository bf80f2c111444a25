// Replays the golden trace of one agent's folder with ONNX Runtime, written from docs/bundle-format.md alone.
//     node replay.mjs FOLDER
// Exit 0: every step agrees. Exit 1: a step differs. Exit 2: the folder cannot be used.
import { createHash } from 'node:crypto';
import { lstatSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { inflateRawSync } from 'node:zlib';

const ABSOLUTE = 1e-5, RELATIVE = 1e-5, NEAR_TIE = 1e-5; // the tolerances of a folder alone
const NO_BOUND = Math.fround(1e15); // bounds count as float32
const FILES = ['policy.onnx', 'golden.npz', 'profile.npz', 'policy.h', 'policy.c', 'self_test.c', 'leapp.yaml'];

class Unusable extends Error {}

function insist(condition, sentence) {
  if (!condition) throw new Unusable(sentence);
}

function readFile(path) {
  insist(lstatSync(path, { throwIfNoEntry: false })?.isFile(), `${path} is missing or cannot be read`);
  return readFileSync(path);
}

// The members of a ZIP archive, as its central directory lists them.
function unzip(bytes) {
  const end = bytes.lastIndexOf('PK\x05\x06', undefined, 'latin1');
  insist(end >= 0, 'golden.npz is not a ZIP archive');
  const members = {};
  let at = bytes.readUInt32LE(end + 16);
  for (let left = bytes.readUInt16LE(end + 10); left > 0; left--) {
    const [packed, size] = [bytes.readUInt32LE(at + 20), bytes.readUInt32LE(at + 24)];
    const [name, extra, comment] = [28, 30, 32].map((field) => bytes.readUInt16LE(at + field));
    const local = bytes.readUInt32LE(at + 42);
    const start = local + 30 + bytes.readUInt16LE(local + 26) + bytes.readUInt16LE(local + 28);
    insist(bytes.readUInt16LE(at + 10) === 8 && size <= 32 << 20, 'golden.npz has a member that is too large or not deflated');
    members[bytes.toString('latin1', at + 46, at + 46 + name)] =
      inflateRawSync(bytes.subarray(start, start + packed), { maxOutputLength: size || 1 });
    at += 46 + name + extra + comment;
  }
  return members;
}

const TYPES = { '<f4': Float32Array, '<i8': BigInt64Array, '|b1': Uint8Array };

// One array in .npy format 1.0. shape: without the number of steps. row(t): the numbers of step t.
function readArray(members, name, dtype, shape) {
  const bytes = members[`${name}.npy`];
  insist(bytes?.toString('latin1', 0, 8) === '\x93NUMPY\x01\x00', `golden.npz has no ${name}.npy in .npy format 1.0`);
  const start = 10 + bytes.readUInt16LE(8);
  const found = /^\{'descr': '(.+)', 'fortran_order': False, 'shape': \((.+)\), \}\s*$/.exec(bytes.toString('latin1', 10, start));
  const [steps, ...rest] = (found?.[2] ?? '').split(',').filter((size) => size.trim()).map(Number);
  const width = shape.reduce((a, b) => a * b, 1), type = TYPES[dtype];
  insist(found?.[1] === dtype && String(rest) === String(shape) && bytes.length - start === steps * width * type.BYTES_PER_ELEMENT,
    `${name}.npy in golden.npz is not of the type and shape that agent.json calls for`);
  const numbers = new type(new Uint8Array(bytes.subarray(start)).buffer); // copied: a typed array begins at a multiple of its size
  return { steps, row: (t) => numbers.slice(t * width, (t + 1) * width) };
}

const allowed = (trace, unit = 1) => ABSOLUTE * Math.max(unit, 1) + RELATIVE * Math.abs(trace);
const close = (ours, trace) => trace.every((number, i) => Math.abs(ours[i] - number) <= allowed(number));

// 'equal', 'tie' or 'differs': the action against the trace's. policy: the trace's logits or mean.
function judge(space, ours, trace, policy) {
  if (trace.every((number, i) => number === ours[i])) return 'equal';
  if (space.type === 'box') {
    const agrees = (action, i) => {
      const [low, high] = [space.low[i], space.high[i]].map(Math.fround), bounded = low > -NO_BOUND && high < NO_BOUND;
      const half = bounded ? (high - low) / 2 : 1, clamp = (x) => Math.min(Math.max(x, low), high);
      if (!space.whole) return Math.abs(action - trace[i]) <= allowed(trace[i], half);
      const exact = clamp((bounded ? (low + high) / 2 : clamp(0)) + half * policy[i]);
      return Number.isInteger(action) && clamp(action) === action && Math.abs(action - exact) <= 0.5 + NEAR_TIE + allowed(exact, half);
    };
    return !ours.every(agrees) ? 'differs' : space.whole ? 'tie' : 'equal';
  }
  const sizes = space.sizes ?? [space.n], starts = space.starts ?? [space.start ?? 0];
  let first = 0;
  const near = sizes.every((size, i) => {
    const logits = policy.slice(first, (first += size));
    return Math.max(...logits) - logits[Number(ours[i]) - starts[i]] <= NEAR_TIE; // no such logit: NaN, which is not <= anything
  });
  return near ? 'tie' : 'differs';
}

async function replay(folder) {
  const agent = JSON.parse(readFile(join(folder, 'agent.json')).toString());
  insist(agent.schema_version === 4, `agent.json has schema version ${agent.schema_version}, not 4`);
  const files = {};
  for (const [name, digest] of Object.entries(agent.files)) {
    insist(FILES.includes(name), `agent.json lists an unknown file: ${name}`);
    files[name] = readFile(join(folder, name));
    insist(createHash('sha256').update(files[name]).digest('hex') === digest,
      `${join(folder, name)} is not what was exported (its SHA-256 differs)`);
  }
  for (const name of FILES.slice(0, 3)) insist(files[name], `agent.json lists no ${name}`);

  const { action_space: space, inputs, outputs, state } = agent;
  insist(['discrete', 'multi_discrete', 'box'].includes(space.type), `agent.json has an action space of unknown type ${space.type}`);
  const members = unzip(files['golden.npz']), choices = outputs[1].shape, memory = state?.size ?? 0;
  const drawn = inputs.some(({ name }) => name === 'noise');
  const trace = {
    obs: readArray(members, 'obs', '<f4', inputs[0].shape),
    mask: readArray(members, 'action_mask', '|b1', choices),
    reset: readArray(members, 'reset', '|b1', []),
    action: readArray(members, 'action', space.type === 'box' ? '<f4' : '<i8', outputs[0].shape),
    policy: readArray(members, 'policy', '<f4', choices),
    state: readArray(members, 'state_out', '<f4', [memory]),
    ...(drawn && { noise: readArray(members, 'noise', '<f4', choices) }),
  };
  const steps = trace.obs.steps;
  insist(Object.values(trace).every((array) => array.steps === steps), 'the arrays of golden.npz differ in their number of steps');

  // onnxruntime-node if it is installed, else onnxruntime-web; both have the same interface.
  const ort = await import('onnxruntime-node').catch(() => import('onnxruntime-web/wasm'))
    .catch(() => { throw new Unusable('neither onnxruntime-node nor onnxruntime-web is installed; run: npm install onnxruntime-node'); });
  if (ort.env.wasm) ort.env.wasm.numThreads = 1;
  const session = await ort.InferenceSession.create(files['policy.onnx'], { intraOpNumThreads: 1, interOpNumThreads: 1 });

  const count = { equal: 0, tie: 0, differs: 0 };
  const wrong = [];
  let remembered = new Float32Array(memory);
  for (let t = 0; t < steps; t++) {
    if (trace.reset.row(t)[0]) remembered = new Float32Array(memory);
    const values = { obs: trace.obs.row(t), action_mask: trace.mask.row(t) };
    if (drawn) values.noise = trace.noise.row(t);
    if (state) values[state.input] = remembered;
    const given = Object.fromEntries(inputs.map(({ name, dtype, shape }) => [name, new ort.Tensor(dtype, values[name], [1, ...shape])]));
    const results = await session.run(given);
    const [action, policy] = outputs.map(({ name }) => results[name].data);
    if (state) remembered = Float32Array.from(results[state.output].data);
    const verdict = judge(space, action, trace.action.row(t), trace.policy.row(t));
    count[verdict]++;
    if (verdict === 'differs' || !close(policy, trace.policy.row(t)) || !close(remembered, trace.state.row(t))) wrong.push(t);
  }
  let line = `agent ${agent.agent}: ${count.equal} of ${steps} golden actions equal`;
  if (count.tie) line += `, near ties: ${count.tie}`;
  if (wrong.length) line += `; steps that differ in action, policy or state: ${wrong.length}, the first is step ${wrong[0]}`;
  console.log(line);
  return wrong.length ? 1 : 0;
}

try {
  insist(process.argv.length === 3, 'usage: node replay.mjs FOLDER');
  process.exitCode = await replay(process.argv[2]);
} catch (error) {
  console.error(error instanceof Unusable ? error.message : `the folder cannot be used: ${error.message}`);
  process.exitCode = 2;
}
