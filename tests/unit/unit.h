/* unit.h: what every unit test includes before anything else of cmocka. */
#ifndef MAYFLY_UNIT_H
#define MAYFLY_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#endif
