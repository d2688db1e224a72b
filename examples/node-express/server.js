const express = require('express');

const app = express();
app.get('/', (request, response) => {
  response.set('x-worker', process.pid).send('hello from Node\n');
});
app.listen(process.env.PORT, '127.0.0.1');
