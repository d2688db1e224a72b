'use strict';
// An Express application.
const express = require('express');
const answer = require('./answer');

const app = express();
app.get('/hello/:name', (req, res) => res.json({ hello: req.params.name }));
app.use(answer);
app.listen(process.env.PORT ?? 0, process.env.HOST);
