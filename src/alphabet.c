/* alphabet.c - the character sets of bearer tokens and of base64url. */
#include "alphabet.h"

const unsigned char alphabet_of[256] = {
    ['A'] = ALPHABET_DIGIT | 0,  ['B'] = ALPHABET_DIGIT | 1,  ['C'] = ALPHABET_DIGIT | 2,
    ['D'] = ALPHABET_DIGIT | 3,  ['E'] = ALPHABET_DIGIT | 4,  ['F'] = ALPHABET_DIGIT | 5,
    ['G'] = ALPHABET_DIGIT | 6,  ['H'] = ALPHABET_DIGIT | 7,  ['I'] = ALPHABET_DIGIT | 8,
    ['J'] = ALPHABET_DIGIT | 9,  ['K'] = ALPHABET_DIGIT | 10, ['L'] = ALPHABET_DIGIT | 11,
    ['M'] = ALPHABET_DIGIT | 12, ['N'] = ALPHABET_DIGIT | 13, ['O'] = ALPHABET_DIGIT | 14,
    ['P'] = ALPHABET_DIGIT | 15, ['Q'] = ALPHABET_DIGIT | 16, ['R'] = ALPHABET_DIGIT | 17,
    ['S'] = ALPHABET_DIGIT | 18, ['T'] = ALPHABET_DIGIT | 19, ['U'] = ALPHABET_DIGIT | 20,
    ['V'] = ALPHABET_DIGIT | 21, ['W'] = ALPHABET_DIGIT | 22, ['X'] = ALPHABET_DIGIT | 23,
    ['Y'] = ALPHABET_DIGIT | 24, ['Z'] = ALPHABET_DIGIT | 25, ['a'] = ALPHABET_DIGIT | 26,
    ['b'] = ALPHABET_DIGIT | 27, ['c'] = ALPHABET_DIGIT | 28, ['d'] = ALPHABET_DIGIT | 29,
    ['e'] = ALPHABET_DIGIT | 30, ['f'] = ALPHABET_DIGIT | 31, ['g'] = ALPHABET_DIGIT | 32,
    ['h'] = ALPHABET_DIGIT | 33, ['i'] = ALPHABET_DIGIT | 34, ['j'] = ALPHABET_DIGIT | 35,
    ['k'] = ALPHABET_DIGIT | 36, ['l'] = ALPHABET_DIGIT | 37, ['m'] = ALPHABET_DIGIT | 38,
    ['n'] = ALPHABET_DIGIT | 39, ['o'] = ALPHABET_DIGIT | 40, ['p'] = ALPHABET_DIGIT | 41,
    ['q'] = ALPHABET_DIGIT | 42, ['r'] = ALPHABET_DIGIT | 43, ['s'] = ALPHABET_DIGIT | 44,
    ['t'] = ALPHABET_DIGIT | 45, ['u'] = ALPHABET_DIGIT | 46, ['v'] = ALPHABET_DIGIT | 47,
    ['w'] = ALPHABET_DIGIT | 48, ['x'] = ALPHABET_DIGIT | 49, ['y'] = ALPHABET_DIGIT | 50,
    ['z'] = ALPHABET_DIGIT | 51, ['0'] = ALPHABET_DIGIT | 52, ['1'] = ALPHABET_DIGIT | 53,
    ['2'] = ALPHABET_DIGIT | 54, ['3'] = ALPHABET_DIGIT | 55, ['4'] = ALPHABET_DIGIT | 56,
    ['5'] = ALPHABET_DIGIT | 57, ['6'] = ALPHABET_DIGIT | 58, ['7'] = ALPHABET_DIGIT | 59,
    ['8'] = ALPHABET_DIGIT | 60, ['9'] = ALPHABET_DIGIT | 61, ['-'] = ALPHABET_DIGIT | 62,
    ['_'] = ALPHABET_DIGIT | 63, ['.'] = ALPHABET_TOKEN,      ['~'] = ALPHABET_TOKEN,
    ['+'] = ALPHABET_TOKEN,      ['/'] = ALPHABET_TOKEN};

/* Reads eight bytes at a time, without branches on their values, because the text is long and
 * almost always valid. */
bool alphabet_has_all(const char *text, size_t length, unsigned alphabet) {
  unsigned common = alphabet;
  for (; length >= 8; length -= 8, text += 8)
    common &= alphabet_at(text) & alphabet_at(text + 1) & alphabet_at(text + 2) &
              alphabet_at(text + 3) & alphabet_at(text + 4) & alphabet_at(text + 5) &
              alphabet_at(text + 6) & alphabet_at(text + 7);
  while (length > 0)
    common &= alphabet_at(text + --length);
  return common == alphabet;
}
