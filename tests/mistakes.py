"""Two plausible mistakes for each exercise, as changes to our solution: (old text, new text).

A weaker check would accept these mistakes.
"""

MISTAKES = {
    # Chapter 01
    "predict_shapes": (
        ("(5, 2, 4, 3), (2, 3)", "(5, 2, 4, 3), (2, 1, 3)"),  # a mean leaves a dimension of size 1
        ("(2, 4, 3), None", "(2, 4, 3), (2, 4, 3)")),  # shapes that do not fit are repeated, too
    "stable_softmax": (
        ("logits.amax(-1, keepdim=True)", "logits.max()"),  # a row far below the largest logit becomes 0 / 0
        ("(logits - logits.amax(-1, keepdim=True))", "logits.sub_(logits.amax(-1, keepdim=True))")),  # in place
    "entropy_given": (
        ("count / places * math", "count / len(text) * math"),  # positions without context are counted
        ("text[i : i + n] for i in range(places)", "text[i : i + n] for i in range(places + 1)")),  # nothing follows
    # Chapter 02
    "predict_changes": (
        ("[2, 3, 4]]", "[2, 3]]"),  # the second layer reaches no further
        ("[2, 3, 4, 5]", "[0, 1, 2]")),  # a causal layer sees what follows
    "window_mask": (
        ("distance < width", "distance <= width"),
        ("torch.arange(T)[:, None] - torch.arange(T)[None, :]", "torch.arange(T) - torch.arange(T)[:, None]")),
    "look_back": (
        ("here - distance", "here + distance"),
        ("attention.rotary_table(here, d)", "attention.rotary_table(here - distance, d)")),  # both turn alike
    # Chapter 03
    "predict_growth": (
        ("[2, 4, 1, 1, 1]", "[2, 4, 2, 1, 1]"),  # more heads are more matrices
        ("[2, 4, 1, 1, 1]", "[2, 2, 1, 1, 1]")),  # a matrix grows in proportion to its width
    "logits_by_depth": (
        ("model.head(model.norm(x)))", "model.head(x))"),
        ("x = block(x, positions, table)", "x = model.norm(block(x, positions, table))")),  # the stream is changed
    "sees_the_future": (
        ("range(T):", "range(T - 1, T):"),  # only the last token is changed
        ("[:, :place], before[:, :place]", "[:, : place + 1], before[:, : place + 1]")),  # the changed one counts
    # Chapter 04
    "predict_masks": (
        ("1 / 4]", "1 / 8]"),  # a random rate is replaced by its mean
        ("[2, 2 / 3", "[3 / 2, 1 / 2")),  # k can be 0
    "nelbo_by_hand": (
        ("return total", "return diffusion.nll_of_text(diffusion.losses_of_all_sets(model, x0), T)"),
        ("range(given, T)", "range(T)")),  # given characters are hidden, too
    "by_margin": (
        ("logits.softmax(-1).topk", "logits.topk"),  # the difference of the logits
        ("masked, count)\n\n\ndef in", "masked | True, count) & masked\n\n\ndef in")),  # fewer than asked for
    "in_blocks": (
        ("2 * block", "0.2 * block"),  # a confident position of the next block wins
        ("confidence - 2 * block", "0 * confidence - torch.arange(len(block))")),  # from left to right in a block
    # Chapter 05
    "predict_factors": (
        ("0.01, 0.5", "0.0, 0.49"),  # the warm-up begins with 0
        ("0.5, 0.25", "1.0, 0.583")),  # the cool-down begins after 70 % of the run
    "hide_run": (
        ("(T - k + 1)).long()", "(T - k)).long()"),  # the last place is never drawn
        ("(T - k + 1)).long()", "T).long().minimum(T - k)")),  # the last place is drawn too often
    "gradient_in_parts": (
        ("/ masks", "/ (masked_rows == model.config.mask_id).sum().clamp(min=1) / parts"),  # the mean of means
        ("zip(x0.chunk(parts), xt.chunk(parts))", "[(x0, xt)]")),  # no parts
    # Chapter 06
    "predict_windows": (
        ("(102, 230, 3)", "(192, 230, 3)"),  # the last window is not moved
        ("(96, 224, 48), (102, 230, 3)", "(96, 224, 64), (102, 230, 11)")),  # every window gets all passes
    "without": (
        ("= -math.inf", "= 0"),
        (".clone()\n        logits", "\n        logits")),  # the model's own logits change
    "template_perplexity": (
        ("        canvas[place] = token\n", ""),  # no filled token is seen
        ("zip(masks, filling)", "zip(masks.flip(0), filling.flip(0))")),  # the other order also sums to 1
    # Chapter 07
    "predict_rows": (
        ("[3, 1, 1, 1, 1, 1, 4, 1, 1]", "[3, 4, 5, 6, 7, 8, 4, 5, 6]"),  # without a buffer
        ("[3, 1, 1, 1, 1, 1, 4, 1, 1]", "[3, 1, 1, 1, 1, 4, 1, 1, 1]")),  # one token too early
    "bits_per_character": (
        ("tokens / characters / math.log(2)", "characters / tokens / math.log(2)"),
        ("/ math.log(2)", "")),  # nats
    "text_nll": (
        ("lengths[:, None] - 1", "lengths[:, None]"),  # the first token of the padding counts
        ("lengths[:, None] - 1", "lengths[:, None] - 2")),  # the last token of a text is forgotten
    "nucleus": (
        ("probability.cumsum(-1) - probability >= p", "probability.cumsum(-1) > p"),  # too few
        (".scatter(-1, order, kept)", "+ kept")),  # in sorted order
    # Chapter 10
    "predict_measures": (
        ("[4 / 6", "[3 / 5"),  # a word counts only once
        ("2 / 5", "2 / 8")),  # a run begins at every character
    "paired_difference": (
        ("difference.std()", "(a.var() + b.var()).sqrt()"),  # as if the windows were different ones
        (" / len(difference) ** 0.5", "")),  # the spread, not the error of the mean
    "nll_in_order": (
        ("        canvas[position] = x0[position]\n", ""),  # no written token is seen
        ("(T - step) / T", "1.0")),  # every pass is told that all tokens are masked
    # Chapter 11
    "predict_passes": (
        ("[8, 2, 14", "[8, 1, 14"),  # the blocks share one pass
        ("16, 8]", "16, 16]")),  # a rule ignores the plan
    "mutual_information": (
        ("possible = joint > 0", "possible = joint > -1"),  # 0 log 0 is not a number
        ("/ product[possible]).log()", ").log().neg()")),  # the entropy of the pair
    "threshold_apart": (
        ("max(0, i - 1)", "i - 1"),  # at position 0, the slice that begins at -1 is empty
        ("confidence.argsort(1, descending=True)", "torch.arange(masked.shape[1]).expand_as(masked)")),  # text order
    # Chapter 13
    "predict_seen": (
        ("4, 4, 4, 6, 6]", "3, 3, 3, 5, 5]"),  # the clean row before the first block is forgotten
        ("4, 4, 4, 6, 6]", "5, 6, 7, 7, 8]")),  # noisy rows see the answers of their block
    "expected_characters": (
        ("total += together", "total += rate"),  # a draft counts although an earlier one was refused
        ("total = together = 1.0", "total, together = 0.0, 1.0")),  # the token that every pass adds is forgotten
    "block_mask": (
        ("earlier & clean", "(earlier | same) & clean"),  # noisy rows see their answers
        ("earlier & clean", "earlier & (clean[:, None] == clean)")),  # noisy rows see noisy rows of earlier blocks
    "acceptance": (
        ("(p - q).clamp(min=0)", "(p - q).abs()"),  # also what is drafted too often
        ("return accept, replace", "return 0 * p, p")),  # right, but no draft is ever accepted
}
