// Takes and gives handles as it is told by the other end of the channel, be that its parent or a child that it starts.
const net = require('node:net');
const dgram = require('node:dgram');

const peer = process.env.CHILD
  ? require('node:child_process').spawn(process.env.CHILD, ['judges'], {
      stdio: ['inherit', 'inherit', 'inherit', 'ipc'],
      serialization: process.env.SERIALIZATION,
    })
  : process;
peer.on('exit', () => process.exit(0));
peer.on('disconnect', () => process.exit(0));

const fail = (error) => peer.send({ failed: String(error) });
process.on('uncaughtException', fail);

const answer = (stream) => stream.on('data', () => stream.end('pong')).on('error', () => {});
const serve = (server) => server.on('connection', (stream) => answer(stream));
const reply = (socket) => socket.on('message', (_, from) => socket.send('pong', from.port, from.address));

const take = {
  'net.Socket': (socket) => answer(socket),
  'net.Server': (server) => serve(server),
  'net.Native': (wrap) => serve(net.createServer()).listen(wrap),
  'dgram.Socket': (socket) => reply(socket),
  'dgram.Native': (wrap) => reply(dgram.createSocket('udp4').bind(wrap)),
};

// What both processes have is used by the other when this one has closed it, as it is told to.
let close = () => {};
const give = (handle, closing) => {
  close = closing;
  peer.send({ given: true }, handle, (error) => error && fail(error));
};
// The bare handle inside a socket: of dgram there is no public way to it in Node 26.
const bare = (socket) => {
  const state = Object.getOwnPropertySymbols(socket).find((symbol) => symbol.description === 'state symbol');
  return socket[state].handle;
};
const listen = (at, then) => {
  const server = net.createServer();
  server.listen(at, () => then(server));
};
const bind = (type, then) => {
  const socket = dgram.createSocket(type);
  socket.bind(0, type === 'udp6' ? '::1' : '127.0.0.1', () => then(socket));
};
const made = {
  'net.Socket': ({ at }) => {
    const socket = net.connect(at, () => give(socket, () => {}));
  },
  'net.Server': ({ at }) => listen(at, (server) => give(server, () => server.close())),
  'net.Native': ({ at }) => listen(at, (server) => give(server._handle, () => server.close())),
  'dgram.Socket': ({ at }) => bind(at, (socket) => give(socket, () => socket.close())),
  'dgram.Native': ({ at }) => bind(at, (socket) => give(bare(socket), () => socket.close())),
};

peer.on('message', (message, handle) => {
  try {
    if (message.hello) peer.send({ hello: true });
    else if (message.close) {
      close();
      peer.send({ closed: true });
    } else if (message.take) take[message.take](handle);
    else if (message.give) made[message.give](message);
  } catch (error) {
    fail(error);
  }
});
