// What an application does with the official client. Reads {scenario, base_url, key, model, ...} from standard input
// and writes what it saw as one line of JSON.
const OpenAI = require("openai");

const WEATHER = {
  type: "object",
  properties: { city: { type: "string" } },
  required: ["city"],
  additionalProperties: false,
};

const ask = (input) => ({
  model: input.model,
  messages: input.messages ?? [{ role: "user", content: input.prompt ?? "hello" }],
  ...input.options,
});

const scenarios = {
  async models(client) {
    const ids = [];
    for await (const model of client.models.list()) ids.push(model.id);
    return { ids };
  },

  async chat(client, input) {
    const { data, response, request_id } = await client.chat.completions.create(ask(input)).withResponse();
    return { answer: data, request_id, headers: Object.fromEntries(response.headers) };
  },

  async stream(client, input) {
    const stream = await client.chat.completions.create({ ...ask(input), stream: true });
    const chunks = [];
    for await (const chunk of stream) chunks.push(chunk);
    return { chunks, text: chunks.map((chunk) => chunk.choices[0]?.delta?.content ?? "").join("") };
  },

  // The client's own accumulator, which is stricter than reading chunks.
  async accumulated(client, input) {
    return { answer: await client.chat.completions.stream(ask(input)).finalChatCompletion() };
  },

  // The client leaves in the middle of a stream.
  async aborted(client, input) {
    const stream = await client.chat.completions.create({ ...ask(input), stream: true });
    let chunks = 0;
    for await (const _ of stream) if (++chunks === (input.after ?? 1)) break;
    return { chunks };
  },

  async schema(client, input) {
    const schema = { name: "weather", strict: true, schema: WEATHER };
    const answer = await client.chat.completions.parse({
      ...ask(input),
      response_format: { type: "json_schema", json_schema: schema },
    });
    return { answer, parsed: answer.choices[0].message.parsed };
  },

  // The whole loop: the model calls, the function runs, its result goes back, until there is text.
  async tools(client, input) {
    const called = [];
    const tool = {
      type: "function",
      function: {
        name: "get_weather",
        description: "The weather in a city",
        parameters: WEATHER,
        parse: JSON.parse,
        function: ({ city }) => {
          called.push(city);
          return `21 C in ${city}`;
        },
      },
    };
    const runner = client.chat.completions.runTools({ ...ask(input), stream: Boolean(input.stream), tools: [tool] });
    const text = await runner.finalContent();
    return { called, text, messages: runner.messages };
  },

  async responses(client, input) {
    const first = await client.responses.create({ model: input.model, input: input.prompt ?? "hello", ...input.options });
    if (!input.follow_up) return { answer: first, text: first.output_text };
    const second = await client.responses.create({
      model: input.model,
      input: input.follow_up,
      previous_response_id: first.id,
      ...input.options,
    });
    return { answer: first, text: first.output_text, second, second_text: second.output_text };
  },

  async responses_stream(client, input) {
    const request = { model: input.model, input: input.prompt ?? "hello", ...input.options, stream: true };
    const events = [];
    for await (const event of await client.responses.create(request)) events.push(event);
    return { events, types: events.map((event) => event.type) };
  },

  async embeddings(client, input) {
    // The client asks for base64 of its own accord and decodes it.
    const answer = await client.embeddings.create({ model: input.model, input: input.prompt ?? "hello" });
    return { dimensions: answer.data.map((item) => item.embedding.length), usage: answer.usage };
  },
};

async function main() {
  const input = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
  const client = new OpenAI({
    baseURL: input.base_url,
    apiKey: input.key,
    maxRetries: input.retries ?? 0,
    timeout: input.timeout_ms ?? 30000,
    defaultHeaders: input.headers,
  });
  let seen;
  try {
    seen = await scenarios[input.scenario](client, input);
  } catch (error) {
    const { name, constructor, status, code, type, param, message, requestID } = error;
    seen = { error: { name, class: constructor.name, status, code, type, param, message, request_id: requestID } };
  }
  process.stdout.write(JSON.stringify(seen));
}

main();
