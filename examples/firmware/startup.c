/* The least that a Cortex-M needs before main: a stack, the floating-point unit, and memory as C expects it.
   What main prints and returns goes to the debugger, or to QEMU, by semihosting. */

#include <stdint.h>
#include <stdlib.h>

extern uint32_t stack_top[], data_load[], data_begin[], data_end[], bss_begin[], bss_end[];
extern void initialise_monitor_handles(void);
extern int main(void);

void reset(void);
static void stop(void);

__attribute__((section(".vectors"), used)) static const void *const vectors[] = {
    stack_top, (const void *)reset, (const void *)stop, (const void *)stop, (const void *)stop, (const void *)stop, (const void *)stop,
};

static void stop(void)
{
    exit(3); /* a fault */
}

void reset(void)
{
    const uint32_t *from = data_load;

    *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20; /* CPACR: the floating-point unit is on */
    __asm volatile("dsb\n\tisb");
    for (uint32_t *to = data_begin; to < data_end; ++to) {
        *to = *from++;
    }
    for (uint32_t *to = bss_begin; to < bss_end; ++to) {
        *to = 0;
    }
    initialise_monitor_handles();
    exit(main());
}
