/* Prints how many instructions a decision takes under `qemu-system-arm -icount shift=0`, and how many bytes of stack.
   QEMU then takes one nanosecond for an instruction, and this board's SysTick counts every 40 of them. */

#include "policy.h"

#include <stdio.h>

enum { DECISIONS = 10, PAINTED = 1 << 20 };
#define TICKS (*(volatile uint32_t *)0xE000E018)

static float obs[AGENT_OBS];
#if AGENT_MASK
static bool mask[AGENT_MASK];
#else
static bool mask[1];
#endif
#if AGENT_NOISE
static const float noise[AGENT_NOISE]; /* zeros: the most likely action; drawing is the device's own work */
#define DECIDE(action) agent_act(obs, mask, noise, action)
#else
#define DECIDE(action) agent_act(obs, mask, action)
#endif

/* Bytes of stack that one decision has written to. */
static __attribute__((noinline)) int stack_used(void)
{
    register char *here __asm("sp");
    volatile char *low = here - PAINTED;
    agent_action action[AGENT_ACTION];
    int used = PAINTED;

    for (int i = 0; i < PAINTED - 64; ++i) {
        low[i] = 0x5A;
    }
    DECIDE(action);
    for (int i = 0; low[i] == 0x5A && used > 0; ++i) {
        --used;
    }
    return used;
}

int main(void)
{
    agent_action action[AGENT_ACTION];
    uint32_t begin, end;

    for (int i = 0; i < AGENT_OBS; ++i) {
        obs[i] = (float)(i % 7) / 7.0f;
    }
    for (unsigned i = 0; i < sizeof mask; ++i) {
        mask[i] = true;
    }
    agent_reset();
    *(volatile uint32_t *)0xE000E014 = 0xFFFFFF; /* SysTick counts down from here */
    *(volatile uint32_t *)0xE000E010 = 5;        /* on, by the processor's clock */
    begin = TICKS;
    for (int i = 0; i < DECISIONS; ++i) {
        DECIDE(action);
    }
    end = TICKS;
    int stack = stack_used();

    printf("%lu instructions, %s%d bytes of stack\n", (unsigned long)((begin - end) & 0xFFFFFF) * 40 / DECISIONS,
           stack == PAINTED ? "more than " : "", stack);
    return 0;
}
