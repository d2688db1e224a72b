'use strict';
// Plays the scenarios of child-process.json with Node's own child_process, as tests/traces.rs plays them with thead, and
// prints what happened: { NAME: [EVENT, …] }. What depends on who is faster (stream events against 'exit') is not told,
// nor are events that a scenario is said to be `without`: there thead differs from Node on purpose.
//
//   node child-process.js DIRECTORY-WITH-FILES [NAME]
const cp = require('child_process');
const fs = require('fs');
const path = require('path');

const [files, only] = process.argv.slice(2);
const text = fs.readFileSync(path.join(__dirname, 'child-process.json'), 'utf8').replaceAll('FILES', files);
const scenarios = JSON.parse(text).filter(({ name }) => !only || name === only);
const number = (signal) => signal && require('os').constants.signals[signal];

/** @returns {Promise<string[]>} */
function play(scenario) {
  const verb = ['exec', 'execFile', 'execFileSync'].find((verb) => verb in scenario);
  return verb ? playWaiting(verb, scenario) : playEvents(scenario);
}

function playEvents({ spawn, fork, options = {}, on = {}, without = [] }) {
  return new Promise((done) => {
    const trace = [];
    const say = (...words) => trace.push(words.join(' '));
    const controller = new AbortController();
    const { aborted, ...others } = options;
    if (aborted) controller.abort();
    let child;
    try {
      if (fork) {
        const script = path.join(files, 'script.js');
        fs.writeFileSync(script, fork);
        child = cp.fork(script, { ...others, silent: true });
      } else {
        child = cp.spawn(spawn[0], spawn.slice(1), { ...others, signal: controller.signal });
      }
    } catch (error) {
      return done([`error ${error.code} ${error.syscall}`]);
    }
    const printed = {};
    const obey = (event) => {
      for (const [what, value] of on[event] ?? []) {
        if (what === 'kill') say('kill', child.kill(value));
        else if (what === 'abort') controller.abort();
        else if (what === 'end') child.stdin.end();
        else if (what === 'write') child.stdin.write(value);
        else if (what === 'disconnect') child.disconnect();
        else if (what === 'after') setTimeout(() => say('later'), value);
        else if (what === 'send') child.send(value, (error) => error && say('error', error.code));
        else throw new Error(what);
      }
    };
    const finish = () => {
      for (const [name, bytes] of Object.entries(printed)) {
        if (bytes.length) say(name, bytes.length > 100 ? bytes.length : JSON.stringify(bytes.toString()));
      }
      done(trace.filter((event) => !without.includes(event.split(' ')[0])));
    };
    child.stdin?.on('error', () => {});
    child.stdio?.forEach((stream, at) => {
      const name = ['stdin', 'stdout', 'stderr'][at] ?? `stream ${at}`;
      if (at === 0 || !stream?.on) return;
      printed[name] = Buffer.alloc(0);
      stream.on('data', (data) => {
        const first = printed[name].length === 0;
        printed[name] = Buffer.concat([printed[name], data]);
        if (first) obey(name);
      });
    });
    child.on('spawn', () => { say('spawn'); obey('spawn'); });
    child.on('error', (error) => {
      say('error', error.code, ...(error.syscall ? [error.syscall] : []));
      obey('error');
    });
    child.on('message', (message) => { say('message', JSON.stringify(message)); obey('message'); });
    child.on('disconnect', () => { say('disconnect'); obey('disconnect'); });
    const ended = (code, signal) => (code === null ? `signal ${number(signal)}` : `code ${code}`);
    child.on('exit', (code, signal) => {
      say('exit', ended(code, signal));
      obey('exit');
      if (without.includes('close')) setTimeout(finish, 200);
    });
    child.on('close', (code, signal) => {
      if (without.includes('close')) return;
      // A process that could not be started has no status: Node's is the error's number.
      if (!child.pid) return finish();
      say('close', ended(code, signal));
      finish();
    });
  });
}

function playWaiting(verb, { [verb]: what, options = {} }) {
  const controller = new AbortController();
  const { abortAfter, ...others } = options;
  if (abortAfter) setTimeout(() => controller.abort(), abortAfter);
  const tell = (error, stdout, stderr) => {
    const trace = [];
    const say = (name, text) => text?.length && trace.push(`${name} ${text.length > 100 ? text.length : JSON.stringify(String(text))}`);
    if (error) {
      const started = typeof error.code !== 'string' || !error.syscall;
      const code = error.status ?? error.code ?? null;
      trace.push(`error ${code}${error.signal ? ` signal ${number(error.signal)}` : ''}`);
      if (verb !== 'execFileSync') {
        if (started) trace.push(`killed ${Boolean(error.killed)}`);
        trace.push(`cmd ${error.cmd}`);
      }
    }
    say('stdout', stdout);
    if (verb !== 'execFileSync') say('stderr', stderr);
    return trace;
  };
  if (verb === 'execFileSync') {
    try {
      return Promise.resolve(tell(null, cp.execFileSync(what[0], what.slice(1), { ...others, stdio: 'pipe' })));
    } catch (error) {
      return Promise.resolve(tell(error, error.stdout));
    }
  }
  return new Promise((done) => {
    const all = { ...others, signal: controller.signal };
    const heard = (...results) => done(tell(...results));
    if (verb === 'exec') cp.exec(what, all, heard);
    else cp.execFile(what[0], what.slice(1), all, heard);
  });
}

(async () => {
  const traces = {};
  for (const scenario of scenarios) traces[scenario.name] = await play(scenario);
  console.log(JSON.stringify(traces));
})();
