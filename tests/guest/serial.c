/* serial.c: output on the serial port. */
#include <linux/serial_reg.h>
#include <stdarg.h>

#include "guest.h"
#include "io.h"

#define COM1        0x3f8
#define TX_PATIENCE 100000

void put_char(char c)
{
	unsigned int i;

	/* A transmitter that never gets ready must not stop the test: write anyway, something may come out. */
	for (i = 0; i < TX_PATIENCE && !(in8(COM1 + UART_LSR) & UART_LSR_THRE); i++)
		pause();
	out8(COM1 + UART_TX, (uint8_t)c);
}

void put_string(const char *s)
{
	while (*s)
		put_char(*s++);
}

static void put_unsigned(uint64_t value, unsigned int base, unsigned int width)
{
	char text[24];
	unsigned int n = 0;

	do {
		text[n++] = "0123456789abcdef"[value % base];
		value /= base;
	} while (value || n < width);
	while (n)
		put_char(text[--n]);
}

/* One conversion, after the '%'; returns what follows it. */
static const char *put_conversion(const char *fmt, va_list *args)
{
	unsigned int width = 0;
	unsigned int longs = 0;
	uint64_t value;

	if (*fmt == '0')
		fmt++;
	while (*fmt >= '0' && *fmt <= '9')
		width = width * 10 + (unsigned int)(*fmt++ - '0');
	while (*fmt == 'l') {
		longs++;
		fmt++;
	}
	if (*fmt == 's') {
		put_string(va_arg(*args, const char *));
	} else if (*fmt == 'c') {
		put_char((char)va_arg(*args, int));
	} else {
		value = longs ? va_arg(*args, unsigned long long) : va_arg(*args, unsigned int);
		put_unsigned(value, *fmt == 'x' ? 16 : 10, width);
	}
	return fmt + 1;
}

void say(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	while (*fmt) {
		if (*fmt == '%')
			fmt = put_conversion(fmt + 1, &args);
		else
			put_char(*fmt++);
	}
	va_end(args);
}
