// What a program in JavaScript does with npm's ollama: node stock_ollama.mjs URL. Prints one JSON object.
import { Ollama } from 'ollama'

const client = new Ollama({ host: process.argv[2] })
const greedy = { temperature: 0 }
const sum = [{ role: 'user', content: 'What is 7 + 5?' }]
const told = {}

const whole = await client.chat({ model: 'demo', messages: sum, options: greedy })
told.whole = [whole.message.content, whole.done_reason, whole.eval_count]

told.streamed = []
for await (const part of await client.chat({ model: 'demo', messages: sum, options: greedy, stream: true })) {
  told.streamed.push(part.message.content)
}

told.generated = ''
const prompt = 'What is the capital of France?'
for await (const part of await client.generate({ model: 'demo', prompt, options: greedy, stream: true })) {
  told.generated += part.response
}

const person = { type: 'object', properties: { name: { const: 'Ann' }, age: { type: 'integer' } }, required: ['name', 'age'] }
const ann = [{ role: 'user', content: 'Give me JSON with name Ann and age 30.' }]
told.held = JSON.parse((await client.chat({ model: 'demo', messages: ann, options: greedy, format: person })).message.content)

const city = { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] }
const tools = [{ type: 'function', function: { name: 'get_weather', description: 'Get the weather.', parameters: city } }]
const weather = [{ role: 'user', content: 'What is the weather in Paris?' }]
const called = await client.chat({ model: 'demo', messages: weather, tools, options: greedy })
told.called = called.message.tool_calls.map((call) => call.function)

const thought = await client.chat({ model: 'demo', messages: sum, think: true, options: greedy })
told.thought = [thought.message.thinking.trim(), thought.message.content]

await client.create({ model: 'copied', from: 'demo', system: 'Always answer in upper case.' })
told.models = (await client.list()).models.map((model) => model.name)
told.shown = Object.keys((await client.show({ model: 'copied' })).model_info).length > 5
await client.copy({ source: 'copied', destination: 'twice' })
await client.delete({ model: 'twice' })
told.running = (await client.ps()).models.map((model) => model.name)
told.version = (await client.version()).version

told.missing = await client.chat({ model: 'nope', messages: sum }).catch((error) => [error.status_code, error.message])

// Far from its end: leaving must stop the model, not only the reading.
const endless = { type: 'array', items: { type: 'integer' }, minItems: 5000 }
const stream = await client.generate({ model: 'demo', prompt: 'Once', raw: true, format: endless, stream: true })
let pieces = 0
try {
  for await (const part of stream) {
    if (++pieces === 3) client.abort()
  }
} catch (error) {
  told.aborted = error.name
}
told.after = (await client.chat({ model: 'demo', messages: sum, options: greedy })).message.content

console.log(JSON.stringify(told))
