/* files.h: files opened without being fooled, new ones that appear whole or not at all, text fit to show. */
#ifndef MAYFLY_SNAPSHOT_FILES_H
#define MAYFLY_SNAPSHOT_FILES_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "error.h"

#define FILES_SHOWN 512 /* bytes that files_show needs */

/* files_show - a path for a sentence: its end if it is long, nothing in it that steers a terminal. Returns shown. */
const char *files_show(char shown[FILES_SHOWN], const char *path);

/* files_blame - put "PATH: " before the sentence in err; returns its code. */
int files_blame(struct error *err, const char *path);

/* files_open - a regular file, never one that waits for somebody. Descriptor, or a negative errno with a sentence. */
int files_open(const char *path, int flags, struct stat *st, struct error *err);

/* A file under a temporary name next to the one it is to have. */
struct new_file {
	const char *path;
	char *temporary; /* NULL: there is none */
	int fd;
};

/* new_file_begin - make it, with the mode of `model`; whatever stands at path stays until new_file_finish. 0, or a
 * negative errno with a sentence. new_file_finish - to disk, and to its name. new_file_drop - away with it, if it was
 * not finished. */
int new_file_begin(struct new_file *file, const char *path, const struct stat *model, struct error *err);
int new_file_finish(struct new_file *file, struct error *err);
void new_file_drop(struct new_file *file);

/* files_catch_signals - from now on SIGINT, SIGTERM and SIGHUP only make files_interrupted true. */
void files_catch_signals(void);
bool files_interrupted(void);

/* text_put_escaped - a string from a file onto standard output, padded with blanks to width; returns its width. With
 * show false it is only measured. */
size_t put_escaped(const char *text, size_t len, size_t width, bool show);

/* hex_text - len bytes as digits into text[2 * len + 1]; returns text. */
const char *hex_text(char *text, const uint8_t *bytes, size_t len);

/* json_out - a document onto standard output, ASCII alone; takes it. 0, or -ENOMEM with a sentence (NULL, too). */
int json_out(json_t *json, struct error *err);

#endif
