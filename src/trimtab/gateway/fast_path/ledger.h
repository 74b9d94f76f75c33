/* What keys have used: the arithmetic of `gateway.ledger`, on the same file under the same lock. */
#include <stdbool.h>
#include <stdint.h>
#include <sys/file.h>

enum { SLOT_WORDS = 16, REQUESTS = 1, TOKENS = 2, REFUNDED = 3, SPENT = 4, BUDGETS = 3 };

struct rate {
    int64_t count, each_ns;             /* count 0: no limit */
};

struct budget {
    int64_t nano_usd, per;              /* 0 hour, 1 day, 2 month; -1: none */
};

struct limits {
    int64_t limited, base, tag;         /* base: the first of the key's words */
    struct rate requests, tokens;
    struct budget budgets[BUDGETS];
};

struct reserved {
    int64_t slot, tokens, nano_usd, periods[BUDGETS], requests_full, tokens_full, refunded;
};

/* Where the words are, and the month of now with its end: Python says so before it polls. */
struct book {
    int64_t *words, size, fd, month, month_ends;
};

static int64_t period_of(const struct book *book, const struct budget *budget, int64_t now) {
    return budget->per == 2 ? book->month : now / (budget->per ? 86400000000000 : 3600000000000);
}

/* A bucket after `amount` was taken; false when it does not hold as much now. */
static bool take_from(int64_t full_at, int64_t now, const struct rate *rate, int64_t amount, int64_t *after) {
    if (amount > rate->count) return false;
    int64_t size = rate->count * rate->each_ns, level = amount * rate->each_ns, ahead = full_at - now;
    if (ahead > 0) level += ahead < 2 * size ? ahead : 2 * size;
    *after = now + level;
    return level <= size;
}

static bool take_all(int64_t *words, const struct book *book, const struct limits *key, int64_t now,
                     struct reserved *r) {
    int64_t periods[BUDGETS] = {0}, spent[BUDGETS] = {0};
    if (words[0] != key->tag) {
        memset(words + 1, 0, (SLOT_WORDS - 1) * sizeof *words);
        words[0] = key->tag;
    }
    if (key->requests.count && !take_from(words[REQUESTS], now, &key->requests, 1, &r->requests_full)) return false;
    if (key->tokens.count && !take_from(words[TOKENS], now, &key->tokens, r->tokens, &r->tokens_full)) return false;
    for (int i = 0; i < BUDGETS && key->budgets[i].per >= 0; i++) {
        const int64_t *at = words + SPENT + 2 * key->budgets[i].per;
        periods[i] = period_of(book, &key->budgets[i], now);
        spent[i] = r->nano_usd;
        if (at[0] >= periods[i]) periods[i] = at[0], spent[i] += at[1];
        if (spent[i] > key->budgets[i].nano_usd) return false;
    }
    for (int i = 0; i < BUDGETS && key->budgets[i].per >= 0; i++) {
        int64_t *at = words + SPENT + 2 * key->budgets[i].per;
        at[1] = spent[i];
        at[0] = r->periods[i] = periods[i];
    }
    if (r->requests_full) words[REQUESTS] = r->requests_full;
    if (r->tokens_full) words[TOKENS] = r->tokens_full;
    r->slot = key->base;
    r->refunded = words[REFUNDED];
    return true;
}

/* Reserve at once what a request may need. False: Python is to refuse it, or to make room in the file. */
static bool reserve(const struct book *book, const struct limits *key, int64_t now, struct reserved *r) {
    if (key->base + SLOT_WORDS > book->size || now >= book->month_ends) return false;
    flock((int)book->fd, LOCK_EX);
    bool taken = take_all(book->words + key->base, book, key, now, r);
    flock((int)book->fd, LOCK_UN);
    return taken;
}

static void settle_tokens(int64_t *words, const struct rate *rate, const struct reserved *r, int64_t now,
                          int64_t tokens) {
    const int64_t wrap = (int64_t)1 << 62;
    int64_t each = rate->each_ns, owed = (tokens - r->tokens) * each;
    if (owed > 0) {
        int64_t full = (words[TOKENS] > now ? words[TOKENS] : now) + owed, most = now + 2 * rate->count * each;
        words[TOKENS] = full < most ? full : most;
        return;
    }
    int64_t since = (words[REFUNDED] - r->refunded) % wrap, refund = -owed;
    if (since < 0) since += wrap;
    int64_t free = r->tokens_full - now - since;
    if (free < 0) free = 0;
    if (refund > free) refund = free;
    words[REFUNDED] = (words[REFUNDED] + refund) % wrap;
    words[TOKENS] -= refund;
}

/* Put what a request used in the place of what it had reserved. */
static void settle(const struct book *book, const struct limits *key, const struct reserved *r, int64_t now,
                   int64_t tokens, int64_t nano_usd) {
    if (!key->tokens.count && key->budgets[0].per < 0) return;
    if (key->base + SLOT_WORDS > book->size) return;
    int64_t *words = book->words + key->base, more = nano_usd - r->nano_usd;
    flock((int)book->fd, LOCK_EX);
    if (words[0] == key->tag) {
        if (key->tokens.count) settle_tokens(words, &key->tokens, r, now, tokens);
        for (int i = 0; i < BUDGETS && key->budgets[i].per >= 0; i++) {
            int64_t *at = words + SPENT + 2 * key->budgets[i].per;
            if (more > 0 || at[0] == r->periods[i]) at[1] += more;
        }
    }
    flock((int)book->fd, LOCK_UN);
}

static int64_t left_in(const struct rate *rate, int64_t full_at, int64_t now) {
    if (full_at <= now) return rate->count;
    int64_t ahead = full_at - now, left = rate->count - (ahead + rate->each_ns - 1) / rate->each_ns;
    return left > 0 ? left : 0;
}

/* Header lines as OpenAI has them (`gateway.limits`). */
static void put_limit(struct buffer *b, const char *what, const struct rate *rate, int64_t full_at, int64_t now) {
    if (!rate->count) return;
    int64_t rest = full_at > now ? full_at - now : 0, ms = (rest + 999999) / 1000000;
    char text[256], reset[48];
    if (rest < 1000000000)
        sprintf(reset, "%lldms", (long long)ms);
    else if (ms / 60000)
        sprintf(reset, "%lldm%gs", (long long)(ms / 60000), (double)(ms % 60000) / 1000);
    else
        sprintf(reset, "%gs", (double)ms / 1000);
    sprintf(text, "x-ratelimit-limit-%s: %lld\r\nx-ratelimit-remaining-%s: %lld\r\nx-ratelimit-reset-%s: %s\r\n", what,
            (long long)rate->count, what, (long long)left_in(rate, full_at, now), what, reset);
    put_text(b, text);
}
