/* Rows of plain numbers, from the JSON of several requests into one array: what `registry.columns` reads where every
 * column is a 64-bit float, in the commonest spellings only. What is spelt otherwise is left to that. And the way back:
 * predictions that are numbers, from one list into the answers of several requests. */
#include <math.h>
#include <stdlib.h>

#include "../native/json.h"

enum { SPLIT, RECORDS, INPUTS, INPUTS_NAMED, INSTANCES, INSTANCES_NAMED };     /* `batches.SHAPES` */
enum { LENGTH = 4, OK = 200, SIGNIFICANT = 19 };

struct signature {
    const char **names;                 /* of the columns; as they stand in JSON without an escape */
    const int64_t *sizes;
    int64_t width;
};

struct table {
    const struct signature *signature;
    double *at, *end;
    int64_t rows;
};

/* The double next to a number (IEEE 754). Up to 2^53 and 10^22 both are exact, so that one operation rounds once
 * (Clinger, "How to read floating point numbers accurately", 1990); the rest is the C library's. */
static bool value_of(const struct word *text, double *value) {
    static const double tens[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                  1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    const char *at = text->at, *end = at + text->size;
    bool minus = *at == '-', fraction = false;
    uint64_t digits = 0;
    int known = 0, scale = 0;
    for (at += minus; at < end && (*at | 32) != 'e'; at++) {
        if (*at == '.') {
            fraction = true;
            continue;
        }
        digits = 10 * digits + (uint64_t)(*at - '0');
        if (digits && ++known > SIGNIFICANT) break;
        scale -= fraction;
    }
    if (at == end && digits <= (uint64_t)1 << 53 && scale >= -22) {
        *value = (double)digits / tens[-scale];
        if (minus) *value = -*value;
        return true;
    }
    char copy[512];
    if (text->size >= sizeof copy) return false;
    memcpy(copy, text->at, text->size);
    copy[text->size] = 0;
    *value = strtod(copy, NULL);
    return isfinite(*value);
}

static bool cell(struct scan *s, struct table *t) {
    struct word text;
    bool whole;
    if (t->at == t->end || !number(s, &text, &whole) || !value_of(&text, t->at)) return fail(s);
    if (whole && *t->at == 0) *t->at = 0;   /* "-0" is a whole number, which has no sign there */
    t->at++;
    return true;
}

/* One row: a list in the signature's order, or an object in it. */
static bool row(struct scan *s, struct table *t, bool named) {
    const struct signature *signature = t->signature;
    struct word name;
    bool first = true;
    int64_t i = 0;
    if (!expect(s, named ? '{' : '[')) return false;
    while (named ? member(s, &first, &name) : element(s, &first)) {
        if (i == signature->width) return fail(s);
        if (named && (name.escaped || name.size != (size_t)signature->sizes[i] ||
                      memcmp(name.at, signature->names[i], name.size)))
            return fail(s);
        if (!cell(s, t)) return false;
        i++;
    }
    t->rows++;
    return !s->bad && (i == signature->width || fail(s));
}

/* Rows of one kind; whether they were named. */
static bool rows(struct scan *s, struct table *t, bool *named) {
    bool first = true;
    if (!expect(s, '[')) return false;
    *named = peek(s) == '{';
    while (element(s, &first)) row(s, t, *named);
    return !s->bad && (t->rows || fail(s));
}

/* Columns that are the signature's, in its order. */
static bool columns(struct scan *s, const struct signature *signature) {
    struct word name;
    bool first = true;
    int64_t i = 0;
    if (!expect(s, '[')) return false;
    while (element(s, &first)) {
        if (i == signature->width || !string(s, &name) || name.escaped || name.size != (size_t)signature->sizes[i] ||
            memcmp(name.at, signature->names[i], name.size))
            return fail(s);
        i++;
    }
    return !s->bad && (i == signature->width || fail(s));
}

static bool split(struct scan *s, struct table *t) {
    struct word name;
    bool first = true, named = false, has_columns = false;
    if (!expect(s, '{')) return false;
    while (member(s, &first, &name)) {
        if (is_word(&name, "columns") && !has_columns) has_columns = columns(s, t->signature);
        else if (!is_word(&name, "data") || t->rows || !rows(s, t, &named) || named) return fail(s);
    }
    return !s->bad && ((has_columns && t->rows) || fail(s));
}

static bool read_part(const char *body, size_t size, struct table *t, int64_t *shape) {
    struct scan s = {body, body + size, false};
    struct word name;
    bool first = true, named = false;
    if (!expect(&s, '{') || !member(&s, &first, &name)) return false;
    if (is_word(&name, "dataframe_split")) {
        split(&s, t);
        *shape = SPLIT;
    } else if (is_word(&name, "dataframe_records")) {
        *shape = rows(&s, t, &named) && (named || fail(&s)) ? RECORDS : 0;
    } else if (is_word(&name, "inputs")) {
        *shape = rows(&s, t, &named) && named ? INPUTS_NAMED : INPUTS;
    } else if (is_word(&name, "instances")) {
        *shape = rows(&s, t, &named) && named ? INSTANCES_NAMED : INSTANCES;
    } else {
        return false;
    }
    return !s.bad && !member(&s, &first, &name) && at_end(&s);
}

/* Read a batch: its parts, each with its length in front (`providers.scoring`). The numbers go to `out`, one part's rows
 * behind the other's, how many rows a part has to `rows`. Returns how many parts there are; -1: there are more than
 * `most`, this is no batch, or a part is spelt otherwise or in a shape that `shapes`, a set of bits, does not have. `out`
 * has room for `room` numbers, which half the batch's bytes are always enough for. */
int64_t batch_read(const char *batch, int64_t size, const struct signature *signature, int64_t shapes, double *out,
                   int64_t room, int64_t *rows_of, int64_t most) {
    const char *at = batch, *end = batch + size;
    struct table t = {signature, out, out + room, 0};
    int64_t found = 0, shape = 0;
    while (at < end) {
        if (end - at < LENGTH || found == most) return -1;
        uint32_t length = 0;
        for (int i = 0; i < LENGTH; i++) length |= (uint32_t)(unsigned char)at[i] << 8 * i;
        at += LENGTH;
        t.rows = 0;
        if ((size_t)(end - at) < length || !read_part(at, length, &t, &shape) || !(shapes >> shape & 1)) return -1;
        rows_of[found++] = t.rows;
        at += length;
    }
    return found;
}

/* The answer to a batch (`providers.scoring`), from all predictions in one JSON list of numbers. Returns how long it is;
 * -1: there are not as many as rows. `to` has room for the list and 32 bytes a part. */
int64_t batch_write(const char *told, int64_t size, const int64_t *rows_of, int64_t parts, char *to) {
    static const char before[] = "{\"predictions\":[", after[] = "]}";
    const char *at = told + 1, *end = told + size - 1;
    char *start = to;
    if (size < 2 || *told != '[' || *end != ']') return -1;
    for (int64_t part = 0; part < parts; part++) {
        const char *first = at;
        for (int64_t row = 0; row < rows_of[part]; row++) {
            if (row ? at == end || *at++ != ',' : at == end) return -1;
            while (at < end && *at != ',') at++;
        }
        uint32_t length = (uint32_t)(sizeof before - 1 + (size_t)(at - first) + sizeof after - 1);
        *to++ = (char)(OK & 255), *to++ = (char)(OK >> 8);
        for (int i = 0; i < LENGTH; i++) *to++ = (char)(length >> 8 * i & 255);
        to = mempcpy(to, before, sizeof before - 1);
        to = mempcpy(to, first, (size_t)(at - first));
        to = mempcpy(to, after, sizeof after - 1);
        if (at < end && *at++ != ',') return -1;
    }
    return at == end ? to - start : -1;
}
