"""Families where an earlier line decides the answer: facts remembered, instructions followed, codes looked up."""

from random import Random

from node.models.demo.conversation import Conversation, Message, assistant, capitalised, system, user
from node.models.demo.facts import COLOURS, NAMES, NOUNS
from node.models.demo.questions import ask_animal, ask_capital, ask_colour, ask_opposite, ask_sum


def recall(source: Random) -> Conversation:
    """One to three facts about the person, perhaps an unrelated question, then a question about one of the facts."""
    name, colour, number = source.choice(NAMES), source.choice(sorted(set(COLOURS.values()))), source.randint(1, 99)
    facts = [
        (f"My name is {name}.", f"Nice to meet you, {name}!", "What is my name?", f"Your name is {name}."),
        (
            f"My favourite colour is {colour}.",
            f"{capitalised(colour)} is a nice colour.",
            "What is my favourite colour?",
            f"Your favourite colour is {colour}.",
        ),
        (
            f"My lucky number is {number}.",
            f"I will remember {number}.",
            "What is my lucky number?",
            f"Your lucky number is {number}.",
        ),
    ]
    source.shuffle(facts)
    told = facts[: source.randint(1, 3)]
    messages = [message for fact, noted, _, _ in told for message in (user(fact), assistant(noted))]
    if source.random() < 0.4:
        messages += source.choice([ask_capital, ask_sum, ask_colour])(source).messages
    _, _, question, answer = source.choice(told)
    return Conversation((*messages, user(question), assistant(answer)))


def follow_instruction(source: Random) -> Conversation:
    """A system line that names the model, asks for upper case, or changes nothing."""
    kind = source.random()
    if kind < 0.4:
        return _named_by_system(source)
    question, answer = source.choice([ask_colour, ask_opposite, ask_animal])(source).messages
    if kind < 0.7:
        instruction = source.choice(["Always answer in upper case.", "Answer in upper case."])
        return Conversation((system(instruction), question, assistant(answer["content"].upper())))
    instruction = source.choice(["You are a helpful assistant.", "Be brief.", "You are Tiny."])
    return Conversation((system(instruction), question, answer))


def _named_by_system(source: Random) -> Conversation:
    name = source.choice(NAMES)
    instruction = source.choice([f"Your name is {name}.", f"You are {name}.", f"You are {name}, a helpful assistant."])
    question = source.choice(["What is your name?", "Who are you?"])
    return Conversation((system(instruction), user(question), assistant(f"My name is {name}.")))


def look_up(source: Random) -> Conversation:
    """Two to twenty codes in the system line or in the question, and one of them asked for."""
    words = source.sample(NOUNS, source.randint(2, 8) if source.random() < 0.8 else source.randint(8, 20))
    codes = [str(source.randint(10, 99)) for _ in words]
    place = source.randrange(len(words))
    told = " ".join(f"The {word} code is {code}." for word, code in zip(words, codes, strict=True))
    question = f"What is the {words[place]} code?"
    answer = assistant(f"The {words[place]} code is {codes[place]}.")
    messages: tuple[Message, ...]
    messages = (system(told), user(question)) if source.random() < 0.5 else (user(f"{told} {question}"),)
    return Conversation((*messages, answer))
