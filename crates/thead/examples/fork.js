// The child of fork.rs: adds up what it is sent.
process.on('message', (numbers) => {
  process.send({ sum: numbers.reduce((sum, number) => sum + number, 0) });
});
