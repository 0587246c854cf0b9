// A clinic's own program: three steps of linear regression on its own rows, which stay here.

const TRUE = [1, -2, 0.5];

/** Those of the clinic of this number; yours would come from a file that its user picks. */
function rows(clinic) {
  return Array.from({ length: 100 }, (_, i) => {
    const inputs = [1, 2.3, 3.7].map((by) => Math.sin(i * by + clinic));
    return { inputs, output: dot(inputs, TRUE) };
  });
}
const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);

/** Called once a sum: named arrays in, the same names and lengths out, and numbers. */
export const clinic = (number) => (model) => {
  const own = rows(number), weight = Float64Array.from(model.get('weight'));
  for (let step = 0; step < 3; step++) {
    const errors = own.map(({ inputs, output }) => dot(inputs, weight) - output);
    weight.forEach((_, j) => {
      const slope = own.reduce((sum, { inputs }, i) => sum + inputs[j] * errors[i], 0);
      weight[j] -= (0.5 * slope) / own.length;
    });
  }
  const square = ({ inputs, output }) => (dot(inputs, weight) - output) ** 2;
  const loss = own.reduce((sum, row) => sum + square(row), 0);
  const numbers = { 'num-examples': own.length, loss: loss / own.length };
  return { arrays: new Map([['weight', Float32Array.from(weight)]]), numbers };
};
