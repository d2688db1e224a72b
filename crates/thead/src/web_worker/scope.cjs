'use strict';
// The global scope of a dedicated worker, in Node 18 to 26. thead::Worker loads this file in front of the worker's script,
// `node --require scope.cjs … script`. Over the channel go, both ways, as V8 values:
//
//   { type: 'message', data }
//   { type: 'error', message, filename, lineno, colno, stack }   from here only: an exception that nobody caught
//
// HTML: "DedicatedWorkerGlobalScope". Missing: location, navigator of the browser, importScripts() of URLs.

if (process.channel) scope();

function scope() {
  // child_process.fork() gives process.execArgv to grandchildren: this file is none of theirs.
  const at = process.execArgv.indexOf(__filename);
  if (at > 0) process.execArgv.splice(at - 1, 2);
  const name = process.env.THEAD_WORKER_NAME ?? '';
  delete process.env.THEAD_WORKER_NAME;

  const { send } = process;
  const target = new EventTarget();
  let listens = false;
  let closing = false;

  function tell(envelope, handle, sent) {
    if (process.connected) Reflect.apply(send, process, [envelope, handle, undefined, sent]);
  }

  // Node keeps messages until somebody listens, and the process alive from then on. So nothing is lost that comes before a
  // module has run to its end, and a worker that never listens ends when it is done.
  function listen() {
    if (listens) return;
    listens = true;
    process.channel?.ref();
    process.on('message', (envelope, handle) => {
      if (closing || envelope?.type !== 'message') return;
      const event = new MessageEvent('message', { data: envelope.data });
      if (handle) event.handle = handle;
      dispatch(event);
    });
  }

  function dispatch(event) {
    for (const key of ['target', 'currentTarget', 'srcElement']) Object.defineProperty(event, key, { value: globalThis });
    return target.dispatchEvent(event);
  }

  function postMessage(data, options) {
    const list = Array.isArray(options) ? options : options?.transfer ?? [];
    const handles = list.filter(isHandle);
    if (handles.length > 1) throw new DOMException('one socket or server goes with a message', 'DataCloneError');
    const buffers = list.filter((item) => !isHandle(item));
    // What is transferred is gone here, as in a browser, though it is copied on its way.
    tell({ type: 'message', data: buffers.length ? structuredClone(data, { transfer: buffers }) : data }, handles[0]);
  }

  function close() {
    if (closing) return;
    closing = true;
    // What was posted before is written first.
    if (process.connected) tell({ type: 'close' }, undefined, () => process.exit());
    else process.exit();
  }

  function importScripts(...files) {
    const { readFileSync } = require('fs');
    const { dirname, resolve } = require('path');
    for (const file of files) {
      const filename = resolve(dirname(process.argv[1]), file);
      require('vm').runInThisContext(readFileSync(filename, 'utf8'), { filename });
    }
  }

  function uncaught(error) {
    const seen = describe(error);
    const event = Object.assign(new Event('error', { cancelable: true }), seen, { error });
    // A worker lives on, but it has not done well.
    if (dispatch(event)) {
      process.exitCode = 1;
      tell({ type: 'error', ...seen });
    }
  }
  process.on('uncaughtException', uncaught);
  // A worker does not outlive its owner. Nor does this keep it alive, as it would by itself.
  process.on('disconnect', () => process.exit());
  process.channel.unref();

  // What a listener throws is told before the next message is read, where Node's EventTarget would throw it later.
  const guarded = new WeakMap();
  function guard(listener) {
    if (typeof listener !== 'function' && typeof listener?.handleEvent !== 'function') return listener;
    if (!guarded.has(listener)) {
      guarded.set(listener, (event) => {
        try {
          if (typeof listener === 'function') listener.call(globalThis, event);
          else listener.handleEvent(event);
        } catch (error) {
          uncaught(error);
        }
      });
    }
    return guarded.get(listener);
  }

  const define = (key, value) => Object.defineProperty(globalThis, key, { value, writable: true, configurable: true });
  define('self', globalThis);
  define('name', name);
  define('postMessage', postMessage);
  define('close', close);
  define('importScripts', importScripts);
  define('addEventListener', (type, listener, options) => {
    target.addEventListener(type, guard(listener), options);
    if (type === 'message') listen();
  });
  define('removeEventListener', (type, listener, options) => target.removeEventListener(type, guard(listener), options));
  define('dispatchEvent', dispatch);
  for (const type of ['message', 'messageerror', 'error']) {
    let handler = null;
    let added = false;
    Object.defineProperty(globalThis, `on${type}`, {
      configurable: true,
      get: () => handler,
      set(value) {
        handler = typeof value === 'function' ? value : null;
        if (!handler || added) return;
        added = true;
        globalThis.addEventListener(type, (event) => {
          if (!handler) return;
          // The one handler with more than the event, and whose `true` means that all is well.
          if (type !== 'error') handler.call(globalThis, event);
          else if (handler.call(globalThis, event.message, event.filename, event.lineno, event.colno, event.error) === true) {
            event.preventDefault();
          }
        });
      },
    });
  }
}

function isHandle(item) {
  const { Socket, Server } = require('net');
  return item instanceof Socket || item instanceof Server || item instanceof require('dgram').Socket;
}

function describe(error) {
  const stack = typeof error?.stack === 'string' ? error.stack : undefined;
  // `    at f (file:1:2)`; a SyntaxError has `file:1` in its first line.
  const [, filename = '', lineno = 0, colno = 0] = /(?:\(|at |^)((?:file:\/\/)?\/[^\n()]*?):(\d+)(?::(\d+))?\)?$/m.exec(stack ?? '') ?? [];
  const message = error instanceof Error ? `Uncaught ${error.name}: ${error.message}` : `Uncaught ${String(error)}`;
  return { message, filename, lineno: Number(lineno), colno: Number(colno ?? 0), stack };
}
