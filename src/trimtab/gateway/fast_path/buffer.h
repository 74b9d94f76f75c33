/* Bytes that grow, MessagePack and the journal's frames. */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct buffer {
    char *at;
    size_t size, room;
};

struct span {
    const char *at;
    int64_t size;
};

/* Room for so many more bytes. Without memory the process ends: what was answered is in the journal. */
static char *room_for(struct buffer *b, size_t more) {
    if (b->size + more > b->room) {
        size_t room = b->room ? b->room * 2 : 512;
        while (room < b->size + more) room *= 2;
        b->at = realloc(b->at, room);
        if (!b->at) abort();
        b->room = room;
    }
    return b->at + b->size;
}

static void put(struct buffer *b, const void *data, size_t size) {
    if (size) memcpy(room_for(b, size), data, size);
    b->size += size;
}

static void put_text(struct buffer *b, const char *text) { put(b, text, strlen(text)); }

static void put_number(struct buffer *b, int64_t value) {
    char digits[24], *at = digits + sizeof digits;
    uint64_t rest = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    do *--at = (char)('0' + rest % 10); while (rest /= 10);
    if (value < 0) *--at = '-';
    put(b, at, (size_t)(digits + sizeof digits - at));
}

/* A time in milliseconds, with three decimals. */
static void put_ms(struct buffer *b, double seconds) {
    int64_t us = (int64_t)(seconds * 1e6 + 0.5), rest = us % 1000;
    put_number(b, us / 1000);
    char decimals[4] = {'.', (char)('0' + rest / 100), (char)('0' + rest / 10 % 10), (char)('0' + rest % 10)};
    put(b, decimals, 4);
}

static void let_go(struct buffer *b) {
    free(b->at);
    memset(b, 0, sizeof *b);
}

static struct span span_of(const struct buffer *b) { return (struct span){b->at, (int64_t)b->size}; }

static void keep_copy(struct span *to, struct span from) {
    char *copy = malloc(from.size ? (size_t)from.size : 1);
    if (!copy) abort();
    if (from.size) memcpy(copy, from.at, (size_t)from.size);
    *to = (struct span){copy, from.size};
}

static void put_span(struct buffer *b, struct span one) { put(b, one.at, (size_t)one.size); }

/* MessagePack (github.com/msgpack/msgpack, spec.md). */

static void put_byte(struct buffer *b, int value) {
    *room_for(b, 1) = (char)value;
    b->size++;
}

static void put_big_endian(struct buffer *b, uint64_t value, int bytes) {
    for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8) put_byte(b, (int)(value >> shift & 255));
}

static void pack_nil(struct buffer *b) { put_byte(b, 0xC0); }

static void pack_int(struct buffer *b, int64_t value) {
    if (value >= 0 && value < 128) {
        put_byte(b, (int)value);
    } else if (value >= 0) {
        int bytes = value < 1 << 8 ? 0 : value < 1 << 16 ? 1 : value <= 0xFFFFFFFF ? 2 : 3;
        put_byte(b, 0xCC + bytes);
        put_big_endian(b, (uint64_t)value, 1 << bytes);
    } else {
        put_byte(b, 0xD3);
        put_big_endian(b, (uint64_t)value, 8);
    }
}

static void pack_array(struct buffer *b, int size) {
    if (size < 16) {
        put_byte(b, 0x90 | size);
    } else {
        put_byte(b, 0xDC);
        put_big_endian(b, (uint64_t)size, 2);
    }
}

static void pack_head(struct buffer *b, size_t size, int small, int eight) {
    if (small && size < 32) {
        put_byte(b, small | (int)size);
    } else if (size < 1 << 8) {
        put_byte(b, eight);
        put_big_endian(b, size, 1);
    } else if (size < 1 << 16) {
        put_byte(b, eight + 1);
        put_big_endian(b, size, 2);
    } else {
        put_byte(b, eight + 2);
        put_big_endian(b, size, 4);
    }
}

static void pack_text(struct buffer *b, const char *at, size_t size) {
    pack_head(b, size, 0xA0, 0xD9);
    put(b, at, size);
}

static void pack_bytes(struct buffer *b, const char *at, size_t size) {
    pack_head(b, size, 0, 0xC4);
    put(b, at, size);
}

/* CRC-32 as zlib has it, sixteen bytes at a time ("slicing"). */

static uint32_t crc_table[16][256];

static void make_crc_table(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t value = i;
        for (int bit = 0; bit < 8; bit++) value = value & 1 ? value >> 1 ^ 0xEDB88320u : value >> 1;
        crc_table[0][i] = value;
    }
    for (int i = 0; i < 256; i++)
        for (int t = 1; t < 16; t++)
            crc_table[t][i] = crc_table[t - 1][i] >> 8 ^ crc_table[0][crc_table[t - 1][i] & 255];
}

static uint32_t crc32_of(const char *data, size_t size) {
    const unsigned char *at = (const unsigned char *)data;
    uint32_t crc = 0xFFFFFFFFu;
    for (; size >= 16; size -= 16, at += 16) {
        uint64_t low, high;
        memcpy(&low, at, 8);
        memcpy(&high, at + 8, 8);
        low ^= crc;
        crc = 0;
        for (int t = 0; t < 8; t++) crc ^= crc_table[15 - t][low >> 8 * t & 255] ^ crc_table[7 - t][high >> 8 * t & 255];
    }
    while (size--) crc = crc >> 8 ^ crc_table[0][(crc ^ *at++) & 255];
    return ~crc;
}

/* A frame of the journal (`store.journal`): length and checksum come when its body is there. */

static size_t begin_frame(struct buffer *b, int kind) {
    size_t start = b->size;
    room_for(b, 8);
    b->size += 8;
    put_byte(b, kind);
    return start;
}

static void end_frame(struct buffer *b, size_t start) {
    uint32_t length = (uint32_t)(b->size - start - 8), crc = crc32_of(b->at + start + 8, length);
    for (int i = 0; i < 4; i++) {
        b->at[start + (size_t)i] = (char)(length >> 8 * i & 255);
        b->at[start + 4 + (size_t)i] = (char)(crc >> 8 * i & 255);
    }
}
