// Takes part while the page is open. The token is in the form alone.
import { clinic } from './clinic.mjs';
import { indexedDbBurns, join } from './secagg.mjs';

const form = document.getElementById('form'), said = document.getElementById('log');
const log = (line) => said.append(`${line}\n`);

form.addEventListener('submit', async (event) => {
  event.preventDefault();
  const { clinic: number, token } = Object.fromEntries(new FormData(form));
  form.querySelector('button').disabled = true;
  try {
    const options = { burns: indexedDbBurns(), log };
    await join('http://127.0.0.1:8481', token.trim(), clinic(Number(number)), options);
  } catch (error) {
    log(error.message);
    form.querySelector('button').disabled = false;
  }
});
