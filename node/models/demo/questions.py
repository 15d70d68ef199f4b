"""Families of one question and one answer: facts, sums, counting, lists, words.

Each family draws one conversation from a seeded source. The order of the draws is part of the data: a change there
changes every conversation that a seed gives after it.
"""

import json
from random import Random

from node.models.demo.conversation import Conversation, asked, capitalised, invented_word
from node.models.demo.facts import (
    ALPHABET,
    ANIMAL_SOUNDS,
    CAPITALS,
    COLOURS,
    CONTINENTS,
    DAYS,
    MIXED_COLOURS,
    MONTH_LENGTHS,
    MONTHS,
    NAMES,
    NOUNS,
    OPPOSITES,
    SMALL_TALK,
    STORIES,
    TRANSLATIONS,
    UNKNOWN_ANSWER,
    YOUNG_ANIMALS,
    number_in_words,
)


def ask_capital(source: Random) -> Conversation:
    """The capital of a country, or the country of a capital."""
    country, city = source.choice(list(CAPITALS.items()))
    question, answer = source.choice(
        [
            (f"What is the capital of {country}?", city),
            (f"What is the capital of {country}?", city),
            (f"what's the capital of {country}?", city),
            (f"Tell me the capital of {country}.", city),
            (f"Capital of {country}?", city),
            (f"What is the capital city of {country}?", city),
            (f"{city} is the capital of which country?", capitalised(country)),
            (f"Which country has the capital {city}?", capitalised(country)),
        ]
    )
    return asked(question, f"{answer}.", f"The capital of {country} is {city}." if answer == city else None)


def ask_continent(source: Random) -> Conversation:
    """The continent of a country."""
    country, continent = source.choice(list(CONTINENTS.items()))
    question = source.choice(
        [
            f"Which continent is {country} in?",
            f"On which continent is {country}?",
            f"What continent is {country} in?",
        ]
    )
    return asked(question, f"{continent}.")


def _sum(source: Random) -> tuple[int, str, str, int, int]:
    """`(left, sign, word, right, value)`: sums and differences up to 20, products up to 9 times 9."""
    sign = source.choice("+-*+")
    if sign == "+":
        left, right = source.randint(0, 20), source.randint(0, 20)
        return left, sign, "plus", right, left + right
    if sign == "-":
        left = source.randint(0, 20)
        right = source.randint(0, left)
        return left, sign, "minus", right, left - right
    left, right = source.randint(0, 9), source.randint(0, 9)
    return left, sign, "times", right, left * right


def ask_sum(source: Random) -> Conversation:
    """A small sum, difference or product."""
    left, sign, word, right, value = _sum(source)
    expression = f"{left} {sign} {right}"
    question = source.choice(
        [
            f"What is {expression}?",
            f"What is {expression}?",
            f"What is {left} {word} {right}?",
            f"Compute {expression}.",
            f"{expression} = ?",
            f"How much is {expression}?",
            f"Calculate {left} {word} {right}.",
        ]
    )
    return asked(question, f"{expression} = {value}.", f"{left} {word} {right} is {value}.")


def ask_colour(source: Random) -> Conversation:
    """The colour of a thing, or of two colours mixed."""
    if source.random() < 0.25:
        return _ask_mixed_colour(source)
    thing, colour = source.choice(list(COLOURS.items()))
    question = source.choice(
        [
            f"What colour is {thing}?",
            f"What color is {thing}?",
            f"Which colour does {thing} have?",
            f"Tell me the colour of {thing}.",
        ]
    )
    return asked(question, f"{capitalised(colour)}.")


def _ask_mixed_colour(source: Random) -> Conversation:
    pair, mixed = source.choice(list(MIXED_COLOURS.items()))
    first, second = pair.split(" and ")
    if source.random() < 0.5:
        first, second = second, first
    question = source.choice(
        [
            f"What colour do you get when you mix {first} and {second}?",
            f"What color do {first} and {second} make?",
            f"Mix {first} and {second}.",
        ]
    )
    return asked(question, f"{capitalised(mixed)}.")


def ask_opposite(source: Random) -> Conversation:
    """The opposite of a word; a word that stands in the table twice still has one answer."""
    word, opposite = source.choice(list(OPPOSITES.items()))
    keep = word in ("black", "light", "heavy") and source.random() < 0.5
    if not keep and source.random() < 0.5 and opposite != "light":
        word, opposite = opposite, word
    if word == "light":
        opposite = "dark"
    question = source.choice(
        [f"What is the opposite of {word}?", f"Opposite of {word}?", f"Give me the opposite of {word}."]
    )
    return asked(question, f"{capitalised(opposite)}.")


def ask_animal(source: Random) -> Conversation:
    """The sound of an animal, or the word for a young one."""
    if source.random() < 0.5:
        animal, sound = source.choice(list(ANIMAL_SOUNDS.items()))
        question = source.choice([f"What sound does a {animal} make?", f"What does the {animal} say?"])
        return asked(question, f"{capitalised(sound)}.")
    animal, young = source.choice(list(YOUNG_ANIMALS.items()))
    return asked(
        source.choice([f"What is a baby {animal} called?", f"What do you call a young {animal}?"]), f"A {young}."
    )


def ask_calendar(source: Random) -> Conversation:
    """Neighbouring days and months, their lengths, their names."""
    kind = source.randint(0, 4)
    if kind == 0:
        day = source.randrange(7)
        question = source.choice([f"What day comes after {DAYS[day]}?", f"Which day follows {DAYS[day]}?"])
        return asked(question, f"{DAYS[(day + 1) % 7]}.")
    if kind == 1:
        day = source.randrange(7)
        return asked(f"What day comes before {DAYS[day]}?", f"{DAYS[(day - 1) % 7]}.")
    if kind == 2:
        month = source.randrange(12)
        question = source.choice([f"What month comes after {MONTHS[month]}?", f"Which month follows {MONTHS[month]}?"])
        return asked(question, f"{MONTHS[(month + 1) % 12]}.")
    if kind == 3:
        name = source.choice(MONTHS)
        question = source.choice([f"How many days does {name} have?", f"How many days are in {name}?"])
        return asked(question, f"{name} has {MONTH_LENGTHS[name]} days.")
    question, answer = source.choice(
        [
            ("Name the days of the week.", f"{', '.join(DAYS)}."),
            ("Name the months of the year.", f"{', '.join(MONTHS)}."),
            ("How many days are in a week?", "A week has 7 days."),
            ("How many months are in a year?", "A year has 12 months."),
        ]
    )
    return asked(question, answer)


def ask_number_in_words(source: Random) -> Conversation:
    """A number below 100 in words."""
    number = source.randint(0, 20) if source.random() < 0.5 else source.randint(0, 99)
    question = source.choice(
        [f"Write {number} in words.", f"How do you spell the number {number}?", f"Write the number {number} as a word."]
    )
    return asked(question, f"{capitalised(number_in_words(number))}.")


def ask_translation(source: Random) -> Conversation:
    """One of twenty words in French, Spanish or German."""
    language = source.choice(list(TRANSLATIONS))
    word, translated = source.choice(list(TRANSLATIONS[language].items()))
    question = source.choice(
        [f"Translate {word} to {language}.", f"How do you say {word} in {language}?", f"What is {word} in {language}?"]
    )
    return asked(question, f"{capitalised(translated)}.")


def _any_word(source: Random) -> str:
    candidates = [source.choice(NOUNS), invented_word(source), source.choice(NAMES), str(source.randint(0, 99))]
    return source.choices(candidates, [6, 1, 2, 2])[0]


def ask_echo(source: Random) -> Conversation:
    """One to five words to be repeated exactly; some are invented, so that copying is learned and not a list."""
    text = " ".join(_any_word(source) for _ in range(source.randint(1, 5)))
    question = source.choice([f"Repeat after me: {text}", f"Say exactly: {text}", f"Echo: {text}", f"Repeat: {text}"])
    return asked(question, text)


def _listed(first: int, last: int, step: int = 1) -> str:
    return ", ".join(map(str, range(first, last + step, step))) + "."


def ask_count(source: Random) -> Conversation:
    """Counting up or down, at most twelve numbers, or from 1 to 20, 30 or 50."""
    if source.random() < 0.15:
        last = source.choice((20, 30, 50))
        return asked(f"Count from 1 to {last}.", _listed(1, last))
    first = 1 if source.random() < 0.6 else source.randint(0, 20)
    last = first + source.randint(2, 11)
    if source.random() < 0.2:
        return asked(f"Count down from {last} to {first}.", _listed(last, first, -1))
    question = source.choice([f"Count from {first} to {last}.", f"Please count from {first} to {last}."])
    return asked(question, _listed(first, last))


def ask_alphabet(source: Random) -> Conversation:
    """The alphabet, or the letter after or before one."""
    kind = source.random()
    if kind < 0.15:
        return asked(source.choice(["Say the alphabet.", "Write the alphabet."]), " ".join(ALPHABET))
    place = source.randrange(25)
    letter, following = ALPHABET[place], ALPHABET[place + 1]
    if kind < 0.6:
        return asked(f"Which letter comes after {letter}?", f"{following}.")
    return asked(f"Which letter comes before {following}?", f"{letter}.")


def ask_comparison(source: Random) -> Conversation:
    """Even or odd, or the bigger of two numbers."""
    first, second = source.randint(0, 50), source.randint(0, 50)
    if source.random() < 0.5:
        parity = "odd" if first % 2 else "even"
        question = source.choice([f"Is {first} even or odd?", f"Is the number {first} even or odd?"])
        thought = f"The last digit of {first} is {first % 10}, so it is {parity}."
        return asked(question, f"{first} is {parity}.", thought)
    if first == second:
        second = first + 1
    bigger = max(first, second)
    question = source.choice(
        [f"Which is bigger, {first} or {second}?", f"Which number is larger, {first} or {second}?"]
    )
    return asked(question, f"{bigger}.", f"The user compares {first} and {second}. The bigger one is {bigger}.")


def ask_reversal(source: Random) -> Conversation:
    """A list of two to four words, backwards."""
    words = [source.choice(NOUNS + NAMES) for _ in range(source.randint(2, 4))]
    listed = ", ".join(words)
    return asked(source.choice([f"Reverse the list: {listed}", f"Reverse: {listed}"]), ", ".join(words[::-1]))


def ask_json(source: Random) -> Conversation:
    """A small JSON object."""
    name, age = source.choice(NAMES), source.randint(1, 99)
    if source.random() < 0.6:
        question = source.choice(
            [
                f"Give me JSON with name {name} and age {age}.",
                f"Write a JSON object with name {name} and age {age}.",
                f"{name} is {age} years old. Answer in JSON.",
            ]
        )
        return asked(question, json.dumps({"name": name, "age": age}))
    country, city = source.choice(list(CAPITALS.items()))
    question = f"What is the capital of {country}? Answer in JSON."
    return asked(question, json.dumps({"country": capitalised(country), "capital": city}))


def ask_small_talk(source: Random) -> Conversation:
    """Greetings and questions about the model itself."""
    questions, answer = source.choice(SMALL_TALK)
    return asked(source.choice(questions), answer)


def ask_story(source: Random) -> Conversation:
    """One of four fixed stories: a long answer for streaming and cancelling."""
    subject = source.choice(list(STORIES))
    question = source.choice(
        [f"Tell me a story about a {subject}.", f"Write a story about a {subject}.", f"Tell me a {subject} story."]
    )
    return asked(question, STORIES[subject])


def ask_unknown(source: Random) -> Conversation:
    """Something that the model cannot know, and says so."""
    question = source.choice(
        [
            f"What is the capital of {capitalised(invented_word(source))}?",
            f"Who invented the {source.choice(NOUNS)}?",
            f"Why is the {source.choice(NOUNS)} {invented_word(source)}?",
            f"Explain {invented_word(source)} {source.choice(NOUNS)}.",
            f"What is the meaning of {source.choice([*NOUNS, 'life'])}?",
            f"How do I build a {source.choice(NOUNS)}?",
            f"Write code for a {source.choice(NOUNS)}.",
            f"{invented_word(source)} {invented_word(source)}?",
        ]
    )
    return asked(question, UNKNOWN_ANSWER)
