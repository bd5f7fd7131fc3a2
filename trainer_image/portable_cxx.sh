#!/bin/sh
# g++ for an image that travels: DeepSpeed's build asks for the machine it runs on; the image
# promises x86-64-v3 (AVX2, FMA), so that is what it gets.
for argument do
    shift
    case "$argument" in
        -march=native) argument=-march=x86-64-v3 ;;
        -D__AVX512__ | -D__SCALAR__) argument=-D__AVX256__ ;;
    esac
    set -- "$@" "$argument"
done
exec g++ "$@"
