/* script.c: cuts mayfly.test="step; step; …" into steps and words, and runs them. */
#include "guest.h"

#define STEP_MAX 1024

/* The script inside the command line: between quotes of either kind, or up to the next space. */
static const char *find_script(const struct guest *g, char *quote)
{
	const char *s = g->cmdline;
	const char *value = NULL;

	/* The last one wins, as with Linux parameters. */
	while (*s) {
		const char *v = starts_with(s, "mayfly.test=");

		if (v && (s == g->cmdline || s[-1] == ' ' || s[-1] == '"'))
			value = v;
		s++;
	}
	if (!value)
		return "";
	*quote = ' ';
	if (*value == '"' || *value == '\'')
		*quote = *value++;
	else if (value > g->cmdline + 12 && value[-13] == '"')
		*quote = '"'; /* "mayfly.test=a; b": quoted as a whole */
	return value;
}

static bool is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\n';
}

static void cut_words(struct step *s, char *text)
{
	s->nr = 0;
	while (*text && s->nr < MAX_WORDS) {
		while (is_blank(*text))
			*text++ = 0;
		if (*text)
			s->word[s->nr++] = text;
		while (*text && !is_blank(*text))
			text++;
	}
}

uint64_t step_option(struct step *s, const char *key, uint64_t otherwise)
{
	const char *text = step_text(s, key, NULL);
	uint64_t value;

	return text && parse_number(text, &value, NULL) ? value : otherwise;
}

const char *step_text(struct step *s, const char *key, const char *otherwise)
{
	const char *value;
	unsigned int i;

	for (i = 1; i < s->nr; i++) {
		value = starts_with(s->word[i], key);
		if (value && *value == '=')
			return value + 1;
	}
	return otherwise;
}

bool step_number(struct step *s, unsigned int i, uint64_t *value)
{
	const char *text = i < s->nr ? s->word[i] : "";
	const char *dev = starts_with(text, "dev");
	uint64_t index, offset = 0;

	if (dev && parse_number(dev, &index, &dev) && index < s->g->nr_devices) {
		if (*dev == '+' && !parse_number(dev + 1, &offset, &dev))
			return false;
		*value = s->g->device[index] + offset;
		return !*dev;
	}
	if (parse_number(text, value, NULL))
		return true;
	say("word %u is not a number: \"%s\"\n", i, text);
	return false;
}

static void run_one(struct guest *g, const char *start, size_t len)
{
	char words[STEP_MAX], text[STEP_MAX];
	struct step s = { .g = g, .text = text };

	while (len && is_blank(*start)) {
		start++;
		len--;
	}
	if (!len)
		return;
	g->steps++;
	if (len >= STEP_MAX) {
		say("step %u is longer than %u characters\n", g->steps, STEP_MAX - 1);
		g->failed++;
		return;
	}
	memcpy(text, start, len);
	text[len] = 0;
	memcpy(words, text, len + 1);
	cut_words(&s, words);
	if (!step_run(&s)) {
		say("FAILED step %u: %s\n", g->steps, text);
		g->failed++;
	}
}

void script_run(struct guest *g)
{
	char quote = 0;
	const char *s = find_script(g, &quote);
	size_t len;

	while (*s && *s != quote) {
		for (len = 0; s[len] && s[len] != ';' && s[len] != quote; len++)
			;
		run_one(g, s, len);
		s += len;
		if (*s == ';')
			s++;
	}
}
